"""AlphaEdit (Fang et al. 2025): changes only in the null space of what the layer has seen.

    A = (P (K K^T + E E^T) + L2 I)^-1 P K

P projects onto the eigenvectors of C whose eigenvalues lie below `nullspace_threshold` (absolute, as published: C's
scale differs between models, so the number belongs to a model); E are the keys of earlier edits, which shall keep what
they say.
"""

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from ..errors import InputError
from .hparams import Hparams
from .multi_layer import Spread


class AlphaEdit(Spread):
    name = "alphaedit"
    protects_earlier = True

    def adjust(self, moment: FactoredMoment, keys: Tensor, earlier: Tensor, hparams: Hparams) -> Tensor:
        values, vectors = moment.eigen
        null = vectors[:, values < hparams.nullspace_threshold]
        if not null.shape[1]:
            raise InputError(
                f"no direction of the covariance lies below nullspace_threshold {hparams.nullspace_threshold} "
                f"(they reach from {values[0]:.2g} to {values[-1]:.2g}); raise it"
            )
        # In the null space's own coordinates the system is symmetric, and n x n by Woodbury, once for each set of keys.
        inside, before = null.T @ keys.double(), null.T @ earlier.double()
        solved = _ridge(before, inside, hparams.L2)
        inner = torch.eye(keys.shape[1], dtype=torch.float64) + inside.T @ solved
        return null @ torch.linalg.solve(inner, solved.T).T


def _ridge(keys: Tensor, right: Tensor, weight: float) -> Tensor:
    """(keys keys^T + weight I)^-1 right, with `keys` `[d, n]` and few of them."""
    inner = keys.T @ keys + weight * torch.eye(keys.shape[1], dtype=torch.float64)
    return (right - keys @ torch.linalg.solve(inner, keys.T @ right)) / weight
