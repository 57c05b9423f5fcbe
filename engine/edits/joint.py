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
"""

from typing import Any

import torch
from torch import Tensor

from ..delta import Factors
from ..hparams import Hparams
from .lesson import lesson
from .method import Task, Written
from .moments import Factored
from .training import Added, Course, changed, passes_in, train

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
        with passes_in(task.decoder, task.hparams):
            b, a, figures = self._trained(task)
        delta = {
            task.decoder.anatomy.weight(layer): _factors(
                b[layer].detach().cpu(), a[layer].T.contiguous().cpu()
            )
            for layer in a
        }
        return Written(delta, figures)

    def _trained(self, task: Task) -> tuple[dict[int, Tensor], dict[int, Tensor], list[dict[str, Any]]]:
        """B `[width, r]` and Q `[key_width, r]` of each layer, float32, and the figures of each request."""
        decoder, hparams = task.decoder, task.hparams
        layers = self.layers(hparams)
        course = Course(decoder, lesson(task), layers[0], hparams.rows)
        keys = course.keys(layers)
        sizes = course.sizes(layers)
        device, width = decoder.device, decoder.anatomy.width
        a = {}
        for begin in range(0, len(layers), _AT_ONCE):
            some = layers[begin : begin + _AT_ONCE]
            # C of the texts; where rows shall stay, what they bring to the matrix counts as much.
            kept = course.kept_moments(some) if hparams.kept_rows else {}
            for layer in some:
                moment = task.moments[layer].plus(kept.pop(layer, None))
                found = basis(moment, keys.pop(layer).T.cpu(), hparams.key_tolerance)
                a[layer] = (sizes[layer] * found).float().to(device)
        b = {
            layer: torch.zeros(width, found.shape[1], device=device, requires_grad=True)
            for layer, found in a.items()
        }
        with changed(decoder, {layer: low_rank(b[layer], a[layer]) for layer in layers}):
            figures = train(course, list(b.values()), task)
        return b, a, figures


def _factors(b: Tensor, a: Tensor) -> Factors:
    """B A, for `b` `[width, r]` and `a` `[r, key_width]`; no more of them than the matrix has rows."""
    return Factors(b, a) if len(a) < len(b) else Factors(torch.eye(len(b)), b @ a)


def basis(moment: Factored, keys: Tensor, tolerance: float = _ROUNDING) -> Tensor:
    """Q `[key_width, r]` float64 spanning C^-1 K with Q^T C Q = I, for keys `[key_width, n]`.

    Directions of the keys with no more than `tolerance` of their largest one's weight are left out.
    """
    solved = moment.solve(keys)
    gram = keys.double().T @ solved
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    held = values > max(tolerance, _ROUNDING) * values[-1]
    return solved @ (vectors[:, held] / values[held].sqrt())


def low_rank(b: Tensor, a: Tensor) -> Added:
    """The change dW = B A^T, for `b` `[width, r]` and `a` `[key_width, r]`."""
    return lambda keys: (keys @ a) @ b.T
