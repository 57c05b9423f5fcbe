"""The joint method: all requests together, their values chosen through the weight that is really edited.

    dW = B Q^T,   Q `[key_width, r]` spans C^-1 K with Q^T C Q = I

K are the keys of every token of the requests' subjects, prompts and targets, so dW stays low-rank, and B is measured as
what the layer has seen feels it: |B|^2 = tr(dW C dW^T) is the mean squared change of the layer's output on ordinary
text. B is trained with Adam on all requests at once, with `weight_decay` on |B|^2. Several facts about one subject,
whose keys at the subject are equal and which therefore overwrite each other in ROME and MEMIT, are told apart by the
keys of the words that follow.
"""

import torch
from torch import Tensor

from ..delta import Factors
from ..hparams import Hparams
from .lesson import lesson
from .method import Task, Written
from .moments import Factored
from .training import Added, Course, changed, train

# Directions of the keys with less of their largest one's weight are rounding.
_RANK_TOLERANCE = 1e-6


class Joint:
    name = "joint"
    batch: int | None = None

    def layers(self, hparams: Hparams) -> list[int]:
        return sorted(set(hparams.layers))

    def write(self, task: Task) -> Written:
        decoder, hparams = task.decoder, task.hparams
        layers = self.layers(hparams)
        course = Course(decoder, lesson(task), layers[0], hparams.rows)
        keys = course.keys(layers)
        bases = {layer: basis(task.moments[layer], keys[layer].T.cpu()) for layer in layers}
        device, width = decoder.device, decoder.anatomy.width
        a = {layer: found.float().to(device) for layer, found in bases.items()}
        b = {
            layer: torch.zeros(width, found.shape[1], device=device, requires_grad=True)
            for layer, found in a.items()
        }
        with changed(decoder, {layer: low_rank(b[layer], a[layer]) for layer in layers}):
            figures = train(course, list(b.values()), task)
        delta = {
            decoder.anatomy.weight(layer): _factors(b[layer].detach().cpu(), a[layer].T.contiguous().cpu())
            for layer in layers
        }
        return Written(delta, figures)


def _factors(b: Tensor, a: Tensor) -> Factors:
    """B A, for `b` `[width, r]` and `a` `[r, key_width]`; no more of them than the matrix has rows."""
    return Factors(b, a) if len(a) < len(b) else Factors(torch.eye(len(b)), b @ a)


def basis(moment: Factored, keys: Tensor) -> Tensor:
    """Q `[key_width, r]` float64 spanning C^-1 K with Q^T C Q = I, for keys `[key_width, n]`."""
    solved = moment.solve(keys)
    gram = keys.double().T @ solved
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    held = values > _RANK_TOLERANCE * values[-1]
    return solved @ (vectors[:, held] / values[held].sqrt())


def low_rank(b: Tensor, a: Tensor) -> Added:
    """The change dW = B A^T, for `b` `[width, r]` and `a` `[key_width, r]`."""
    return lambda keys: (keys @ a) @ b.T
