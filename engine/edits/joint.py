"""The joint method: all requests together, their values chosen through the weight that is really edited.

    dW = B Q^T,   Q `[key_width, r]` spans C^-1 K with Q^T C Q = s^2 I

K are the keys of every token of the requests' subjects, prompts and targets, or of their subjects alone: then the words
around them bring nothing, and the change holds whatever they are. So dW stays low-rank, and B is measured as what the
layer has seen feels it: s^2 |B|^2 = tr(dW C dW^T) is the mean squared change of the layer's output on ordinary text,
s how large the residual stream is behind the layer, over the mean of the edited ones. So among several layers a step
and the penalty are shares of what flows past; else the lowest ones, past which little flows, are changed most, and do
most of the harm. B is trained with Adam on all requests at once, with `weight_decay` on |B|^2. Several facts about one
subject, whose keys at the subject are equal and which therefore overwrite each other in ROME and MEMIT, are told apart
by the keys of the words that follow.

A later edit about the same subjects goes on with the training of the earlier ones rather than training on top of them:
they are taken off while it learns, B begins at what they say of the keys, and what shall stay is held to the model
without them. So facts that come one after another are written by the loss that writes all at once, but that what is
fresh counts for more where it is few, and the harm does not add up.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from ..model.decoder import Decoder
from ..model.delta import Delta, Factors, Materializer, compact, concatenate, negate
from .change import Added, changed, passes_in
from .hparams import Hparams
from .method import Task, Written
from .training import Course, train
from .training_examples import lesson

# Directions of the keys with less of their largest one's weight are rounding.
_ROUNDING = 1e-6
# Layers whose second moments are held in memory at once: each takes 4 bytes x key_width^2.
_AT_ONCE = 4


class Joint:
    name = "joint"
    batch: int | None = None

    def layers(self, hparams: Hparams) -> list[int]:
        return sorted(set(hparams.layers))

    def write(self, task: Task) -> Written:
        names = {layer: task.decoder.anatomy.weight_name(layer) for layer in self.layers(task.hparams)}
        so_far = _gone_on_with(task, names.values())
        with _without(task.decoder, so_far), passes_in(task.decoder, task.hparams):
            b, a, figures = self._trained(task, {layer: so_far.get(name) for layer, name in names.items()})
        whole = {
            name: Factors(b[layer].detach().cpu(), a[layer].T.contiguous().cpu())
            for layer, name in names.items()
        }
        delta = concatenate([negate(so_far), whole])
        return Written({name: _folded(factors) for name, factors in delta.items()}, figures)

    def _trained(
        self, task: Task, so_far: dict[int, Factors | None]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], list[dict[str, Any]]]:
        """B `[width, r]` and Q `[key_width, r]` of each layer, float32, and the figures of each request; a layer's B
        begins at what it has `so_far`."""
        decoder, hparams = task.decoder, task.hparams
        layers = self.layers(hparams)
        course = Course(decoder, lesson(task), layers[0], hparams.rows)
        keys = course.keys(layers)
        sizes = course.sizes(layers)
        device, width = decoder.device, decoder.anatomy.width
        a, b = dict[int, Tensor](), dict[int, Tensor]()
        for begin in range(0, len(layers), _AT_ONCE):
            some = layers[begin : begin + _AT_ONCE]
            # C of the texts; where rows shall stay, what they bring to the matrix counts as much.
            kept = course.kept_moments(some) if hparams.kept_rows else {}
            for layer in some:
                moment = task.moments[layer].plus(kept.pop(layer, None))
                spanned, seen = basis(moment, keys.pop(layer).T.cpu(), hparams.key_tolerance)
                a[layer] = (sizes[layer] * spanned).float().to(device)
                before, begun = so_far[layer], torch.zeros(width, seen.shape[1], dtype=torch.float64)
                if before is not None:
                    begun = before.b.double() @ (before.a.double() @ seen) / sizes[layer]
                b[layer] = begun.float().to(device).requires_grad_(True)
        with changed(decoder, {layer: low_rank(b[layer], a[layer]) for layer in layers}):
            figures = train(course, list(b.values()), task)
        return b, a, figures


def _gone_on_with(task: Task, names: Collection[str]) -> Delta:
    """What the earlier joint edits come to that wrote about the task's subjects alone, and changed no other matrices:
    all they wrote is learnt again. One that stays has gone on with those before it about its subjects, so they stay."""
    subjects = {request.subject for request in task.requests}
    deltas: list[Delta] = []
    for edit in reversed(task.past):
        if edit.method != Joint.name:
            continue
        about = {request.subject for request in edit.requests}
        if about <= subjects and set(delta := edit.delta()) <= set(names):
            deltas.append(delta)
        else:
            subjects -= about
    return {name: compact(factors) for name, factors in concatenate(reversed(deltas)).items()}


@contextmanager
def _without(decoder: Decoder, delta: Delta) -> Iterator[None]:
    """The model without a part of its changes while inside; its bits come back."""
    weights = Materializer(decoder.model)
    try:
        weights.set(negate(delta))
        yield
    finally:
        weights.set({})


def _folded(factors: Factors) -> Factors:
    """The same change in no more factors than the matrix has rows."""
    width = len(factors.b)
    return factors if factors.rank < width else Factors(torch.eye(width), factors.b @ factors.a)


def basis(moment: FactoredMoment, keys: Tensor, tolerance: float = _ROUNDING) -> tuple[Tensor, Tensor]:
    """Q `[key_width, r]` float64 spanning C^-1 K with Q^T C Q = I, and C Q, which lies in the span of K; for keys
    `[key_width, n]`.

    Directions of the keys with no more than `tolerance` of their largest one's weight are left out.
    """
    solved = moment.solve(keys)
    gram = keys.double().T @ solved
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    held = values > max(tolerance, _ROUNDING) * values[-1]
    mixed = vectors[:, held] / values[held].sqrt()
    return solved @ mixed, keys.double() @ mixed


def low_rank(b: Tensor, a: Tensor) -> Added:
    """The change dW = B A^T, for `b` `[width, r]` and `a` `[key_width, r]`."""
    return lambda keys: (keys @ a) @ b.T
