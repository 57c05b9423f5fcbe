"""Training a change of the weights on requests: what the joint method and the fine-tuning baselines share.

Every request is a row in each context, teacher-forced; its essence prompt ("{subject} is a") and the bare contexts are
rows whose predictions shall stay. Only blocks from the lowest changed one on are run, logits are read only where the
loss reads them. Whoever trains puts the change into the model first and hands in its parameters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..decoder import Decoder
from ..hparams import Hparams
from ..limits import search_tokens
from ..progress import Progress
from ..tokens import prompt_ids, right_padded, target_ids
from .method import Task
from .request import ESSENCE

# A request with less than this, mean negative log-likelihood per token, is learnt (as in rome's search).
_LOSS_ENOUGH = 0.05


@dataclass(frozen=True)
class Lesson:
    """Token rows and what the loss reads of them.

    `ids` are rows of token ids; `reads` are (row, position, wanted token, request); `kept` are (row, position) whose
    next-token distribution shall stay. `keyed[row]` tells whether a row is one of the bare prompts with its target,
    and from which position on its keys belong to the request: its subject's first token.
    """

    ids: list[list[int]]
    reads: list[tuple[int, int, int, int]]
    kept: list[tuple[int, int]]
    keyed: dict[int, int]
    requests: int


def lesson(task: Task) -> Lesson:
    """The rows of a task's requests.

    Raises:
        InputError: a target that tokenises to nothing.
    """
    tokenizer, contexts = task.tokenizer, task.contexts
    ids: list[list[int]] = []
    reads: list[tuple[int, int, int, int]] = []
    kept: list[tuple[int, int]] = []
    keyed: dict[int, int] = {}
    for number, request in enumerate(task.requests):
        target = target_ids(tokenizer, request.target_new)
        for place, context in enumerate(contexts):
            located = request.located(tokenizer, context)
            if place == 0:
                keyed[len(ids)] = located.begin
            first = len(located.ids) - 1
            reads += [(len(ids), first + k, token, number) for k, token in enumerate(target)]
            ids.append(located.ids + target[:-1])
    for subject in dict.fromkeys(request.subject for request in task.requests):
        row = prompt_ids(tokenizer, ESSENCE.replace("{}", subject))
        kept.append((len(ids), len(row) - 1))
        ids.append(row)
    for context in contexts[1:]:
        row = prompt_ids(tokenizer, context.replace("{}", "").strip())
        kept += [(len(ids), position) for position in range(1, len(row))]
        ids.append(row)
    return Lesson(ids, reads, kept, keyed, len(task.requests))


class Course:
    """A lesson on a decoder, in parts that fit into memory, each resumed at block `first` for every position."""

    def __init__(self, decoder: Decoder, lesson: Lesson, first: int) -> None:
        self.decoder, self.lesson = decoder, lesson
        self.parts = [_Part(decoder, lesson, first, rows) for rows in _parts(lesson, decoder.device)]

    def keys(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """What enters the matrix of each layer at the requests' own tokens, `[tokens, key_width]` float32."""
        found = [part.keys(layers) for part in self.parts]
        return {layer: torch.cat([keys[layer] for keys in found]) for layer in layers}


def _parts(lesson: Lesson, device: torch.device) -> list[list[int]]:
    """Rows of like length together, so many that their tokens are few enough to train on at once."""
    most = search_tokens(device.type)
    parts: list[list[int]] = []
    for row in sorted(range(len(lesson.ids)), key=lambda row: len(lesson.ids[row])):
        if not parts or (len(parts[-1]) + 1) * len(lesson.ids[row]) > most:
            parts.append([])
        parts[-1].append(row)
    return parts


class _Part:
    """Some rows of a lesson as tensors."""

    def __init__(self, decoder: Decoder, lesson: Lesson, first: int, rows: list[int]) -> None:
        self._decoder, self._lesson, self._first, self._of = decoder, lesson, first, rows
        self._ids, mask = right_padded([lesson.ids[row] for row in rows], decoder.device)
        self._mask = mask.bool()
        run = decoder.run(self._ids, mask, stop_after=max(0, first - 1))
        self._entering = run.states[first].clone()
        self._resumption = decoder.resume(run, 0)
        run.states.clear()
        self._rows = torch.arange(len(rows), device=decoder.device)
        place = {row: number for number, row in enumerate(rows)}
        reads = [(place[row], *rest) for row, *rest in lesson.reads if row in place]
        self._row, self._position, self._wanted, self._request = self._columns(reads, 4)
        kept = [(place[row], position) for row, position in lesson.kept if row in place]
        self._kept_row, self._kept_position = self._columns(kept, 2)
        counts = torch.bincount(torch.tensor([read[3] for read in lesson.reads]), minlength=lesson.requests)
        self._share = 1 / counts.to(decoder.device)[self._request].float()
        with torch.no_grad():
            self._before = self._log_p(self._run(), self._kept_row, self._kept_position)

    def _columns(self, rows: Sequence[Sequence[int]], count: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._decoder.device).view(-1, count).T

    def losses(self) -> tuple[Tensor, Tensor]:
        """With the weights as they are now, what these rows give to the mean negative log-likelihood of each request's
        target tokens `[requests]`, and to the mean KL(before || now) of what shall stay."""
        hidden = self._run()
        wanted = self._log_p(hidden, self._row, self._position).gather(1, self._wanted[:, None])[:, 0]
        each = torch.zeros(self._lesson.requests, device=hidden.device)
        each = each.index_add(0, self._request, -wanted * self._share)
        now = self._log_p(hidden, self._kept_row, self._kept_position)
        kl = (self._before.exp() * (self._before - now)).sum() / len(self._lesson.kept)
        return each, kl

    def keys(self, layers: Sequence[int]) -> dict[int, Tensor]:
        own = torch.zeros_like(self._mask)
        for number, row in enumerate(self._of):
            if row in self._lesson.keyed:
                begin = self._lesson.keyed[row]
                own[number, begin:] = self._mask[number, begin:]
        found: dict[int, Tensor] = {}

        def on_key(layer: int, keys: Tensor) -> None:
            if layer in layers:
                found[layer] = keys[own].float()

        mask = self._mask.long()
        self._decoder.run(self._ids, mask, on_key=on_key, stop_after=max(layers), resumable=False)
        return found

    def _run(self) -> Tensor:
        hidden = self._entering.clone()
        for layer in range(self._first, self._decoder.layers):
            hidden = self._resumption.step(layer, hidden, self._rows)
        return hidden

    def _log_p(self, hidden: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Log distributions `[places, vocabulary]`; a part may have none of the places."""
        if not len(rows):
            return hidden.new_zeros(0, 1, dtype=torch.float32)
        logits = self._decoder.logits(hidden[rows, positions][:, None])[:, 0]
        return logits.float().log_softmax(-1)


def train(
    course: Course,
    parameters: Sequence[Tensor],
    task: Task,
    project: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Move the parameters by Adam until every request's loss is small enough or `num_steps` are used up.

    Minimised is the mean of the requests' losses + `kl_factor` x KL + `weight_decay` x the sum of the parameters'
    squares; `project` moves the parameters back to where they may be, after each step. The last step only looks, so
    its losses are those of the parameters as they stay. Returns figures per request.
    """
    hparams, requests, steps = task.hparams, len(task.requests), task.hparams.num_steps
    optimiser = torch.optim.Adam(parameters, lr=hparams.lr)
    losses: list[list[dict[str, float]]] = [[] for _ in range(requests)]
    for step in range(steps):
        looking = step == steps - 1
        optimiser.zero_grad()
        each = _look(course) if looking else _descend(course, parameters, hparams)
        for history, value in zip(losses, each, strict=True):
            history.append({"loss": value})
        doing = f"training: mean loss {sum(each) / requests:.3f}"
        task.report(Progress((step + 1) / steps * requests, requests, "requests", doing))
        if looking or max(each) < _LOSS_ENOUGH:
            break
        optimiser.step()
        if project is not None:
            with torch.no_grad():
                project()
    return [{"losses": history} for history in losses]


def _look(course: Course) -> list[float]:
    """The loss of each request."""
    with torch.no_grad():
        found: list[float] = torch.stack([part.losses()[0] for part in course.parts]).sum(0).tolist()
    return found


def _descend(course: Course, parameters: Sequence[Tensor], hparams: Hparams) -> list[float]:
    """The same, with the gradients of the whole loss summed up part by part."""
    total = torch.zeros(course.lesson.requests, device=course.decoder.device)
    (hparams.weight_decay * torch.stack([part.square().sum() for part in parameters]).sum()).backward()
    for part in course.parts:
        each, kl = part.losses()
        (each.mean() + hparams.kl_factor * kl).backward()
        total += each.detach()
    found: list[float] = total.tolist()
    return found


# Maps what enters a matrix `[.., key_width]`, float32, to what is added to what it puts out `[.., width]`.
Added = Callable[[Tensor], Tensor]


@contextmanager
def changed(decoder: Decoder, change: Mapping[int, Added]) -> Iterator[None]:
    """While inside, the matrix of each of these layers has its change added."""

    def adding(added: Added) -> Any:
        def hook(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return (output.float() + added(args[0].float())).to(output.dtype)

        return hook

    handles = [
        decoder.part("matrix", layer).register_forward_hook(adding(added)) for layer, added in change.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
