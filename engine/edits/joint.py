"""The joint method: trains all requests together, through the weights that are edited.

    dW = B Q^T,   Q `[key_width, r]` spans C^-1 K with Q^T C Q = s^2 I

K are the keys of the requests' subjects, prompts and targets, or of the subjects alone. With the subjects alone, the
change does not depend on the words around them. dW is low-rank, and B is measured in the metric of C: s^2 |B|^2 =
tr(dW C dW^T) is the mean squared change of the layer's output on ordinary text. s is the residual-stream norm after
the layer, relative to the mean over the edited layers. So updates and the penalty scale with the residual stream at
each layer. Without s, the lowest layers would change most and do most of the harm.

B is trained with Adam on all requests at once, with `weight_decay` on |B|^2. Several facts about one subject share
their key at the subject, so ROME and MEMIT overwrite one with another. Here the keys of the words that follow
separate them.

A later edit of the same subjects continues the training of the earlier ones. Their delta is removed from the weights
during the training, B is initialized with it, and the preservation set is compared with the model without it. So
facts that are written one after another have the same loss as facts written at once, except that new facts have a
least share of it. The harm does not add up.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from ..model.decoder import Decoder
from ..model.delta import Delta, Factors, Materializer, compact, concatenate, negate
from .hparams.training import JointHparams
from .method import EditResult, EditTask
from .training import DeltaFn, bfloat16_weights, train, with_delta
from .training_batches import TrainingBatches
from .training_examples import build_examples

# Directions of the keys below this share of the largest one are rounding errors.
_ROUNDING = 1e-6
# Layers whose second moments are in memory at once: each takes 4 bytes x key_width^2.
_LAYERS_AT_ONCE = 4

ByLayer = dict[int, Tensor]


class Joint:
    name = "joint"

    def layers(self, hparams: JointHparams) -> list[int]:
        return sorted(set(hparams.layers))

    def write(self, task: EditTask[JointHparams]) -> EditResult:
        names = {layer: task.decoder.anatomy.weight_name(layer) for layer in self.layers(task.hparams)}
        previous = continued_delta(task, names.values())
        with _without_delta(task.decoder, previous), bfloat16_weights(task.decoder, task.hparams.bf16):
            b, a, figures = self._train(task, {layer: previous.get(name) for layer, name in names.items()})
        trained = {
            name: Factors(b[layer].detach().cpu(), a[layer].T.contiguous().cpu())
            for layer, name in names.items()
        }
        delta = concatenate([negate(previous), trained])
        return EditResult({name: _limit_rank(factors) for name, factors in delta.items()}, figures)

    def _train(
        self, task: EditTask[JointHparams], previous_delta: dict[int, Factors | None]
    ) -> tuple[ByLayer, ByLayer, list[dict[str, Any]]]:
        """Train B `[width, r]` for s Q `[key_width, r]` of each layer, both float32, from the previous delta. Returns
        both and the figures of each request."""
        decoder, hparams = task.decoder, task.hparams
        layers = self.layers(hparams)
        batches = TrainingBatches(decoder, build_examples(task), layers[0], hparams.rows)
        keys = batches.read_keys(layers)
        norms = batches.residual_norms(layers)
        device, width = decoder.device, decoder.anatomy.width
        a, b = dict[int, Tensor](), dict[int, Tensor]()
        for begin in range(0, len(layers), _LAYERS_AT_ONCE):
            group = layers[begin : begin + _LAYERS_AT_ONCE]
            # The keys of the preservation set weigh as much as C.
            preserved = batches.preserved_moments(group) if hparams.preserved_rows else {}
            for layer in group:
                moment = task.moments[layer].plus(preserved.pop(layer, None))
                basis, dual = compute_basis(moment, keys.pop(layer).T.cpu(), hparams.key_tolerance)
                a[layer] = (norms[layer] * basis).float().to(device)
                previous, initial = previous_delta[layer], torch.zeros(width, dual.shape[1]).double()
                if previous is not None:
                    initial = previous.b.double() @ (previous.a.double() @ dual) / norms[layer]
                b[layer] = initial.float().to(device).requires_grad_(True)
        with with_delta(decoder, {layer: low_rank_delta(b[layer], a[layer]) for layer in layers}):
            figures = train(batches, list(b.values()), task)
        return b, a, figures


def continued_delta(task: EditTask[JointHparams], names: Collection[str]) -> Delta:
    """The sum of the earlier joint edits that the task continues.

    An edit is continued if all its facts are about the task's subjects and it changed no matrices but `names`. If an
    edit is not continued, neither are the edits before it about its subjects, because it continued those.
    """
    subjects = {request.subject for request in task.requests}
    deltas: list[Delta] = []
    for edit in reversed(task.past):
        if edit.method != Joint.name:
            continue
        edit_subjects = {request.subject for request in edit.requests}
        if edit_subjects <= subjects and set(delta := edit.delta()) <= set(names):
            deltas.append(delta)
        else:
            subjects -= edit_subjects
    return {name: compact(factors) for name, factors in concatenate(reversed(deltas)).items()}


@contextmanager
def _without_delta(decoder: Decoder, delta: Delta) -> Iterator[None]:
    """Remove a delta from the weights inside the context and restore their bits after it."""
    weights = Materializer(decoder.model)
    try:
        weights.set(negate(delta))
        yield
    finally:
        weights.set({})


def _limit_rank(factors: Factors) -> Factors:
    """The same change with no more factors than the matrix has rows."""
    width = len(factors.b)
    return factors if factors.rank < width else Factors(torch.eye(width), factors.b @ factors.a)


def compute_basis(
    moment: FactoredMoment, keys: Tensor, tolerance: float = _ROUNDING
) -> tuple[Tensor, Tensor]:
    """Compute Q `[key_width, r]` float64 that spans C^-1 K with Q^T C Q = I, and C Q, for keys `[key_width, n]`.

    Directions of the keys with at most `tolerance` of the largest one's weight are left out.
    """
    solved = moment.solve(keys)
    gram = keys.double().T @ solved
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    large = values > max(tolerance, _ROUNDING) * values[-1]
    mixed = vectors[:, large] / values[large].sqrt()
    return solved @ mixed, keys.double() @ mixed


def low_rank_delta(b: Tensor, a: Tensor) -> DeltaFn:
    """The change dW = B A^T, for `b` `[width, r]` and `a` `[key_width, r]`."""
    return lambda keys: (keys @ a) @ b.T
