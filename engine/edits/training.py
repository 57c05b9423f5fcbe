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
from transformers import PreTrainedTokenizerBase

from ..decoder import Decoder
from ..progress import Progress, Report
from ..tokens import locate_span, prompt_ids, right_padded, target_ids
from .request import Request

_ESSENCE = "{} is a"
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


def lesson(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], contexts: Sequence[str]
) -> Lesson:
    """The rows of some requests. The first of `contexts` is the bare `{}`.

    Raises:
        InputError: a target that tokenises to nothing.
    """
    ids: list[list[int]] = []
    reads: list[tuple[int, int, int, int]] = []
    kept: list[tuple[int, int]] = []
    keyed: dict[int, int] = {}
    for number, request in enumerate(requests):
        target = target_ids(tokenizer, request.target_new)
        for place, context in enumerate(contexts):
            template = context.replace("{}", request.prompt)
            start = template.index("{}")
            text = template.replace("{}", request.subject)
            located = locate_span(tokenizer, text, start, start + len(request.subject))
            if place == 0:
                keyed[len(ids)] = located.begin
            first = len(located.ids) - 1
            reads += [(len(ids), first + k, token, number) for k, token in enumerate(target)]
            ids.append(located.ids + target[:-1])
    for subject in dict.fromkeys(request.subject for request in requests):
        row = prompt_ids(tokenizer, _ESSENCE.replace("{}", subject))
        kept.append((len(ids), len(row) - 1))
        ids.append(row)
    for context in contexts[1:]:
        row = prompt_ids(tokenizer, context.replace("{}", "").strip())
        kept += [(len(ids), position) for position in range(1, len(row))]
        ids.append(row)
    return Lesson(ids, reads, kept, keyed, len(requests))


class Course:
    """A lesson as tensors on a decoder, resumed at block `first` for every position."""

    def __init__(self, decoder: Decoder, lesson: Lesson, first: int) -> None:
        self.decoder, self.lesson, self.first = decoder, lesson, first
        ids, mask = right_padded(lesson.ids, decoder.device)
        self.mask = mask.bool()
        run = decoder.run(ids, mask)
        self._resumption = decoder.resume(run, 0)
        self._rows = torch.arange(len(lesson.ids), device=decoder.device)
        columns = zip(*lesson.reads, strict=True)
        self._row, self._position, self._wanted, self._request = (
            torch.tensor(column, device=decoder.device) for column in columns
        )
        kept = torch.tensor(lesson.kept, device=decoder.device)
        self._kept_row, self._kept_position = kept[:, 0], kept[:, 1]
        # Reads of one request weigh alike, and all requests do.
        counts = torch.bincount(self._request, minlength=lesson.requests)
        self._weight = 1 / (counts[self._request].float() * lesson.requests)
        last = run.states[-1]
        with torch.no_grad():
            self._before = self._log_p(last, self._kept_row, self._kept_position)

    def keys(self, layer: int) -> Tensor:
        """What enters the matrix of `layer` at the requests' own tokens, `[tokens, key_width]` float32."""
        found: list[Tensor] = []
        ids, mask = right_padded(self.lesson.ids, self.decoder.device)

        def on_key(at: int, keys: Tensor) -> None:
            if at == layer:
                found.append(keys.float())

        self.decoder.run(ids, mask, on_key=on_key, stop_after=layer, resumable=False)
        own = torch.zeros_like(self.mask)
        for row, begin in self.lesson.keyed.items():
            own[row, begin:] = self.mask[row, begin:]
        return found[0][own]

    def losses(self) -> tuple[Tensor, Tensor]:
        """With the weights as they are now: mean negative log-likelihood of the targets' tokens `[requests]`, each
        request by itself, and the mean KL(before || now) of what shall stay, a scalar."""
        hidden = self._resumption.entering(self.first, self._rows)
        for layer in range(self.first, self.decoder.layers):
            hidden = self._resumption.step(layer, hidden, self._rows)
        wanted = self._log_p(hidden, self._row, self._position).gather(1, self._wanted[:, None])[:, 0]
        each = torch.zeros(self.lesson.requests, device=hidden.device)
        each = each.index_add(0, self._request, -wanted * self._weight * self.lesson.requests)
        now = self._log_p(hidden, self._kept_row, self._kept_position)
        kl = (self._before.exp() * (self._before - now)).sum(-1).mean()
        return each, kl

    def _log_p(self, hidden: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        logits = self.decoder.logits(hidden[rows, positions][:, None])[:, 0]
        return logits.float().log_softmax(-1)


# Called after each step with the share of the steps and the mean loss of the targets.
OnStep = Callable[[float, float], None]


@dataclass(frozen=True)
class Schedule:
    """Adam's steps and rate, and the weight of the KL."""

    steps: int
    rate: float
    kl_factor: float


def train(
    course: Course,
    parameters: Sequence[Tensor],
    schedule: Schedule,
    on_step: OnStep,
    penalty: Callable[[], Tensor],
    project: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Move the parameters until every request's loss is small enough or the steps are used up.

    `penalty` is added to the loss; `project` moves the parameters back to where they may be, after each step. The
    last step only looks, so its losses are those of the parameters as they stay. Returns figures per request.
    """
    optimiser = torch.optim.Adam(parameters, lr=schedule.rate)
    losses: list[list[dict[str, float]]] = [[] for _ in range(course.lesson.requests)]
    for step in range(schedule.steps):
        optimiser.zero_grad()
        each, kl = course.losses()
        for history, value in zip(losses, each.tolist(), strict=True):
            history.append({"loss": value, "kl": kl.item()})
        on_step((step + 1) / schedule.steps, each.mean().item())
        if each.max().item() < _LOSS_ENOUGH or step == schedule.steps - 1:
            break
        loss = each.mean() + schedule.kl_factor * kl + penalty()
        loss.backward()
        optimiser.step()
        if project is not None:
            with torch.no_grad():
                project()
    return [{"losses": history} for history in losses]


def following(report: Report, requests: int) -> OnStep:
    """Steps of a training as progress in requests, all of which are learnt together."""

    def on_step(share: float, loss: float) -> None:
        report(Progress(share * requests, requests, "requests", f"training: mean loss {loss:.3f}"))

    return on_step


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


def low_rank(b: Tensor, a: Tensor) -> Added:
    """The change dW = B A^T, for `b` `[width, r]` and `a` `[key_width, r]`."""
    return lambda keys: (keys @ a) @ b.T


def decay(parameters: Sequence[Tensor], weight: float) -> Callable[[], Tensor]:
    """The penalty `weight` x the sum of the parameters' squares."""
    return lambda: weight * torch.stack([part.square().sum() for part in parameters]).sum()
