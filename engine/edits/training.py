"""Training a change of the weights on requests: what the joint method and the fine-tuning baselines share.

Every request is a row in each of its wordings, and its prompt in each context, teacher-forced. Its essence prompt
("{subject} is a"), the bare contexts and, if wanted, stretches of other text and the wordings about strangers are rows
whose predictions shall stay. Only blocks from the lowest changed one on are run, logits are read only where the loss
reads them. Whoever trains puts the change into the model first and hands in its parameters.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..model.decoder import Decoder
from ..model.limits import search_tokens
from ..model.tokens import pad_right
from ..progress import Progress
from .hparams import Hparams
from .method import Task
from .training_examples import Lesson

# A request with less than this, mean negative log-likelihood per token, is learnt (as in rome's search).
_LOSS_ENOUGH = 0.05
# Of a training on some rows a step: so many steps until the whole rate, and what of it is left at the end.
_WARM_UP, _LAST_RATE = 10, 0.05
# Of the rows that a step learns from, one of so many is of facts that were written before: they only have to stay.
_EARLIER = 3
# How often each of those is seen at least, however short the training would be.
_AGAIN = 10
# What is fresh counts at least so much of the loss, however many facts there were before: it is to be learnt.
_FRESH = 1 / 3
# How often, in seconds, the state of a training is kept.
_KEEP_SECONDS = 60.0


class Course:
    """A lesson on a decoder, in parts that fit into memory, each resumed at block `first` for every position.

    What is fresh, what was learnt before and what only has to stay lie in parts of their own. With `rows`, a part has
    no more.
    """

    def __init__(self, decoder: Decoder, lesson: Lesson, first: int, rows: int = 0) -> None:
        self.decoder, self.lesson = decoder, lesson
        fresh, earlier = lesson.learnt(fresh=True), lesson.learnt(fresh=False)
        kept = sorted(set(range(len(lesson.ids))).difference(fresh, earlier))
        most_fresh, most_earlier = _rows_of_a_step(lesson, rows)

        def parts(some: list[int], most: int) -> list[_Part]:
            groups = _groups(lesson, some, decoder.device, most)
            return [_Part(decoder, lesson, first, group) for group in groups]

        self.fresh, self.earlier = parts(fresh, most_fresh), parts(earlier, most_earlier)
        self.keeping = parts(kept, rows)

    @property
    def reading(self) -> list["_Part"]:
        """What is to be learnt."""
        return self.fresh + self.earlier

    @property
    def parts(self) -> list["_Part"]:
        """All of them."""
        return self.reading + self.keeping

    def keys(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """What enters the matrix of each layer at the requests' own tokens, `[tokens, key_width]` float32."""
        found = [part.keys(layers, part.keyed) for part in self.reading]
        return {layer: torch.cat([keys[layer] for keys in found]) for layer in layers}

    def kept_moments(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """E[k k^T] `[key_width, key_width]` float32 on the CPU of the keys in rows that shall stay, but for the first
        token of each; nothing if there is no such row."""
        sums: dict[int, Tensor] = {}
        count = 0
        for part in self.keeping:
            keys = part.keys(layers, part.after_first)
            count += len(next(iter(keys.values())))
            for layer, of_layer in keys.items():
                product = (of_layer.T @ of_layer).cpu()
                sums[layer] = sums[layer].add_(product) if layer in sums else product
        return {layer: total / count for layer, total in sums.items()}

    def sizes(self, layers: Sequence[int]) -> dict[int, float]:
        """The mean norm of the residual stream behind each layer, over the mean of these layers: at all tokens but the
        first of the rows that shall stay."""
        norms = torch.stack([part.norms(layers) for part in self.keeping]).sum(0)
        return dict(zip(layers, (norms / norms.mean()).tolist(), strict=True))

    def emphasis(self) -> tuple[float, float]:
        """How much more or less than its share of the lesson what is fresh counts, and what was learnt before."""
        share = sum(part.weight for part in self.fresh)
        if not self.earlier:
            return 1.0, 0.0
        counts = max(share, _FRESH)
        return counts / share, (1 - counts) / (1 - share)

    def draws(self, hparams: Hparams, seed: int) -> Iterator[list["_Part"]]:
        """The parts of one step after another: all, or at least `rows` rows to learn and `kept_rows` others."""
        if not hparams.rows:
            while True:
                yield self.parts
        fresh, earlier = _rows_of_a_step(self.lesson, hparams.rows)
        drawn = [
            _taken(parts, rows, seed)
            for parts, rows in (
                (self.fresh, fresh),
                (self.earlier, earlier),
                (self.keeping, hparams.kept_rows),
            )
        ]
        while True:
            yield [part for taken in drawn for part in next(taken)]


def _rows_of_a_step(lesson: Lesson, rows: int) -> tuple[int, int]:
    """Of so many rows those of fresh requests, and those of earlier ones; at least one of each that there is."""
    if not rows or lesson.fresh == lesson.requests:
        return rows, 0
    earlier = max(1, rows // _EARLIER)
    return max(1, rows - earlier), earlier


def _taken(parts: list["_Part"], rows: int, seed: int) -> Iterator[list["_Part"]]:
    """Parts with at least so many rows together, until all had their turn, then in another order."""
    order, rng = list[_Part](), random.Random(seed)
    while True:
        found: list[_Part] = []
        while parts and sum(part.rows for part in found) < rows:
            order = order or rng.sample(parts, len(parts))
            found.append(order.pop())
        yield found


def _groups(lesson: Lesson, rows: Sequence[int], device: torch.device, most_rows: int) -> list[list[int]]:
    """Rows of like length together, so many that their tokens are few enough to train on at once."""
    most = search_tokens(device.type)
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: len(lesson.ids[row])):
        last = groups[-1] if groups else []
        if not last or (len(last) + 1) * len(lesson.ids[row]) > most or len(last) == most_rows:
            groups.append([])
        groups[-1].append(row)
    return groups


class _Part:
    """Some rows of a lesson as tensors.

    `weight` is what its reads are of the whole lesson's, `kept_weight` the same of the positions that shall stay.
    """

    def __init__(self, decoder: Decoder, lesson: Lesson, first: int, rows: list[int]) -> None:
        self._decoder, self._lesson, self._first, self.of = decoder, lesson, first, rows
        self.rows = len(rows)
        self._ids, mask = pad_right([lesson.ids[row] for row in rows], decoder.device)
        self._mask = mask.bool()
        run = decoder.run(self._ids, mask, stop_after=max(0, first - 1))
        self._entering = run.states[first].clone()
        self._resumption = decoder.resume(run, 0)
        run.states.clear()
        self._rows = torch.arange(len(rows), device=decoder.device)
        place = {row: number for number, row in enumerate(rows)}
        reads = [(place[row], *rest) for row, *rest in lesson.reads if row in place]
        self._row, self._position, self._wanted, self._request = self._columns(reads, 4)
        kept = [(place[row], position) for row in rows for position in lesson.kept.get(row, ())]
        self._kept_row, self._kept_position = self._columns(kept, 2)
        sizes = [len(lesson.kept[rows[number]]) for number, _ in kept]
        self._kept_share = 1 / torch.tensor(sizes, device=decoder.device, dtype=torch.float32)
        counts = torch.bincount(torch.tensor([read[3] for read in lesson.reads]), minlength=lesson.requests)
        self._share = 1 / counts.to(decoder.device)[self._request].float()
        self.weight = self._share.sum().item() / lesson.requests
        self.kept_weight = sum(row in place for row in lesson.kept) / max(1, len(lesson.kept))
        with torch.no_grad():
            # What the head makes of these would be a vocabulary for each; it is cheap to make again.
            self._before = self._run()[self._kept_row, self._kept_position]

    def _columns(self, rows: Sequence[Sequence[int]], count: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._decoder.device).view(-1, count).T

    def losses(self) -> tuple[Tensor, Tensor]:
        """With the weights as they are now, what these rows give to the mean negative log-likelihood of each request's
        target tokens `[requests]`, and to the mean KL(before || now) of the rows that shall stay."""
        hidden = self._run()
        read = self._log_p(hidden[self._row, self._position])
        wanted = read.gather(1, self._wanted[:, None])[:, 0]
        each = torch.zeros(self._lesson.requests, device=hidden.device)
        each = each.index_add(0, self._request, -wanted * self._share)
        now = self._log_p(hidden[self._kept_row, self._kept_position])
        with torch.no_grad():
            before = self._log_p(self._before)
        divergences = (before.exp() * (before - now)).sum(-1)
        kl = (divergences * self._kept_share).sum() / max(1, len(self._lesson.kept))
        return each, kl

    @property
    def keyed(self) -> Tensor:
        """Which tokens' keys a change may be written over, `[rows, T]`."""
        found = torch.zeros_like(self._mask)
        for number, row in enumerate(self.of):
            begin, end = self._lesson.keyed.get(row, (0, 0))
            found[number, begin:end] = True
        return found

    @property
    def after_first(self) -> Tensor:
        """All tokens but the first of each row, `[rows, T]`."""
        found = self._mask.clone()
        found[:, 0] = False
        return found

    def keys(self, layers: Sequence[int], where: Tensor) -> dict[int, Tensor]:
        """What enters the matrix of each layer at those tokens, `[tokens, key_width]` float32."""
        found: dict[int, Tensor] = {}

        def on_key(layer: int, keys: Tensor) -> None:
            if layer in layers:
                found[layer] = keys[where].float()

        mask = self._mask.long()
        self._decoder.run(self._ids, mask, on_key=on_key, stop_after=max(layers), resumable=False)
        return found

    def norms(self, layers: Sequence[int]) -> Tensor:
        """The sum over all tokens but the first of each row of the norms of what leaves each layer, `[layers]`."""
        run = self._decoder.run(self._ids, self._mask.long(), stop_after=max(layers))
        where = self.after_first
        found = [run.states[layer + 1][where].float().norm(dim=-1).sum() for layer in layers]
        run.states.clear()
        return torch.stack(found)

    def _run(self) -> Tensor:
        hidden = self._entering.clone()
        for layer in range(self._first, self._decoder.layers):
            hidden = self._resumption.step(layer, hidden, self._rows)
        return hidden

    def _log_p(self, hidden: Tensor) -> Tensor:
        """Log distributions `[places, vocabulary]` float32 of states `[places, width]`; there may be no place."""
        if not len(hidden):
            return hidden.new_zeros(0, 1, dtype=torch.float32)
        return self._decoder.logits(hidden[:, None])[:, 0].float().log_softmax(-1)


def train(
    course: Course,
    parameters: Sequence[Tensor],
    task: Task,
    project: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Move the parameters by Adam until every request's loss is small enough or all `steps` are used up.

    Minimized is the mean of the requests' losses + `kl_factor` x KL + `weight_decay` x the sum of the parameters'
    squares; `project` moves the parameters back to where they may be, after each step. With `rows`, a step learns from
    some of the rows only, and the rate rises over the first steps and falls with a cosine to the last. The last step
    only looks, so its losses are those of the parameters as they stay. What is kept now and then is gone on from, to
    the bit. Returns figures per request of the task.
    """
    hparams, steps = task.hparams, steps_of(course.lesson, task.hparams)
    optimizer = torch.optim.Adam(parameters, lr=hparams.lr)
    training = _Training(course, list(parameters), optimizer, task, steps)
    draws = course.draws(hparams, task.seed)
    for _ in range(training.step):
        next(draws)
    while training.step < steps:
        looking = training.step == steps - 1
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = hparams.lr * _rate(training.step, steps, hparams)
        each = _look(course) if looking else _descend(course, next(draws), parameters, hparams)
        if training.note(each, whole=looking or not hparams.rows) or looking:
            break
        optimizer.step()
        if project is not None:
            with torch.no_grad():
                project()
        training.keep()
    return [{"losses": history} for history in training.losses[: len(task.requests)]]


def steps_of(lesson: Lesson, hparams: Hparams) -> int:
    """How many steps a training takes at most: with `epochs`, enough to learn from every fresh row so many times, and
    to see every earlier one again."""
    if not hparams.rows or not hparams.epochs:
        return hparams.num_steps
    fresh, earlier = _rows_of_a_step(lesson, hparams.rows)
    steps = hparams.epochs * math.ceil(len(lesson.learnt(fresh=True)) / fresh)
    if earlier:
        steps = max(steps, _AGAIN * math.ceil(len(lesson.learnt(fresh=False)) / earlier))
    return min(hparams.num_steps, steps)


def _rate(step: int, steps: int, hparams: Hparams) -> float:
    """What of the learning rate a step of so many has."""
    if not hparams.rows:
        return 1.0
    falling = (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / _WARM_UP) * (_LAST_RATE + (1 - _LAST_RATE) * falling)


class _Training:
    """How far a training is: its losses so far, and its state as `task.kept` keeps it."""

    def __init__(
        self,
        course: Course,
        parameters: list[Tensor],
        optimizer: torch.optim.Adam,
        task: Task,
        steps: int,
    ) -> None:
        self._parameters, self._optimizer, self._task, self._steps = parameters, optimizer, task, steps
        self._requests = course.lesson.requests
        self.step = 0
        self.losses: list[list[dict[str, float]]] = [[] for _ in range(self._requests)]
        self._kept_at = time.monotonic()
        state = task.kept.training()
        if state is not None:
            self._go_on_from(*state)

    def note(self, each: list[float], whole: bool) -> bool:
        """Note a step's losses, of each request if it has seen the `whole` of them; whether all are learnt."""
        self.step += 1
        if whole:
            for history, value in zip(self.losses, each, strict=True):
                history.append({"loss": value})
        steps, requests = self._steps, len(self._task.requests)
        doing = f"training, step {self.step} of {steps}: mean loss {sum(each) / len(each):.3f}"
        self._task.report(Progress(self.step / steps * requests, requests, "requests", doing))
        return whole and max(each) < _LOSS_ENOUGH

    def keep(self) -> None:
        """Have the state kept, if that was some time ago."""
        if time.monotonic() - self._kept_at < _KEEP_SECONDS:
            return
        tensors = {}
        for number, part in enumerate(self._parameters):
            state = self._optimizer.state[part]
            tensors[f"{number}.now"] = part.detach()
            tensors[f"{number}.mean"], tensors[f"{number}.square"] = state["exp_avg"], state["exp_avg_sq"]
        self._task.kept.keep_training(tensors, {"step": self.step, "losses": self.losses})
        self._kept_at = time.monotonic()

    def _go_on_from(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        self.step, self.losses = about["step"], about["losses"]
        for number, part in enumerate(self._parameters):
            with torch.no_grad():
                part.copy_(tensors[f"{number}.now"])
            self._optimizer.state[part] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": tensors[f"{number}.mean"].to(part.device),
                "exp_avg_sq": tensors[f"{number}.square"].to(part.device),
            }


def _look(course: Course) -> list[float]:
    """The loss of each request."""
    with torch.no_grad():
        found: list[float] = torch.stack([part.losses()[0] for part in course.reading]).sum(0).tolist()
    return found


def _descend(
    course: Course, parts: Sequence[_Part], parameters: Sequence[Tensor], hparams: Hparams
) -> list[float]:
    """The gradients of the whole loss, summed up part by part; what these parts tell of each request's loss.

    Some of what is fresh counts as much as all of that would, and so does some of what was learnt before, and some of
    what has to stay, however many rows of each are drawn.
    """
    total = torch.zeros(course.lesson.requests, device=course.decoder.device)
    kept_weight = sum(part.kept_weight for part in parts)
    (hparams.weight_decay * torch.stack([part.square().sum() for part in parameters]).sum()).backward()
    fresh, earlier = course.emphasis()
    of_fresh, of_earlier = _scales(course.fresh, parts), _scales(course.earlier, parts)
    for part in parts:
        each, kl = part.losses()
        emphasis, scale = (
            (fresh, of_fresh[part]) if part in of_fresh else (earlier, of_earlier.get(part, 0.0))
        )
        loss = emphasis * scale * each.mean() + hparams.kl_factor * kl / max(kept_weight, 1e-12)
        loss.backward()
        total += scale * each.detach()
    found: list[float] = total.tolist()
    return found


def _scales(group: Sequence[_Part], drawn: Sequence[_Part]) -> dict[_Part, float]:
    """By what the losses of those drawn of a group are multiplied, so that they count as much as the whole group."""
    among = set(group).intersection(drawn)
    weight = sum(part.weight for part in group) / max(sum(part.weight for part in among), 1e-12)
    return dict.fromkeys(among, weight)
