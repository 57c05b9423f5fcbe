"""AlphaEdit (Fang et al. 2025): updates only in the null space of the keys that the layer reads on ordinary text.

    A = (P (K K^T + E E^T) + L2 I)^-1 P K

P projects onto the eigenvectors of C with eigenvalues below `nullspace_threshold`. The threshold is absolute, as
published. C's scale differs between models, so the number belongs to one model. E are the keys of earlier edits,
whose outputs are preserved.
"""

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from ..errors import InputError
from .hparams.memit import AlphaEditHparams
from .memit import MultiLayerMethod


class AlphaEdit(MultiLayerMethod[AlphaEditHparams]):
    name = "alphaedit"
    protects_past = True

    def update_directions(
        self, moment: FactoredMoment, keys: Tensor, past_keys: Tensor, hparams: AlphaEditHparams
    ) -> Tensor:
        eigenvalues, vectors = moment.eigen
        null = vectors[:, eigenvalues < hparams.nullspace_threshold]
        if not null.shape[1]:
            raise InputError(
                f"no eigenvalue of the covariance is below nullspace_threshold {hparams.nullspace_threshold} "
                f"(they range from {eigenvalues[0]:.2g} to {eigenvalues[-1]:.2g}): raise it"
            )
        # In the coordinates of the null space the system is symmetric, and Woodbury makes it n x n.
        projected, past_projected = null.T @ keys.double(), null.T @ past_keys.double()
        solved = _solve_ridge(past_projected, projected, hparams.L2)
        inner = torch.eye(keys.shape[1], dtype=torch.float64) + projected.T @ solved
        return null @ torch.linalg.solve(inner, solved.T).T


def _solve_ridge(keys: Tensor, right: Tensor, weight: float) -> Tensor:
    """(keys keys^T + weight I)^-1 right, for few keys `[d, n]`."""
    inner = keys.T @ keys + weight * torch.eye(keys.shape[1], dtype=torch.float64)
    return (right - keys @ torch.linalg.solve(inner, keys.T @ right)) / weight
