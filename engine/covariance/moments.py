"""A second moment as the edit methods use it: factored once, then solved for a few keys."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError


class FactoredMoment:
    """Factors of C = E[k k^T] `[key_width, key_width]`, float64 on the CPU, computed at first use and cached.

    C itself is not cached: `moment` may be a function that reads it, so that it takes no memory before it is used.

        moment = FactoredMoment(collected.moments[layer].matrix())
        update_direction = moment.solve(key[:, None])  # C^-1 k, as in ROME
    """

    def __init__(self, moment: Tensor | Callable[[], Tensor]) -> None:
        self._moment = moment

    def _matrix(self) -> Tensor:
        return (self._moment if isinstance(self._moment, Tensor) else self._moment()).double().cpu()

    def plus(self, other: Tensor | None) -> "FactoredMoment":
        """C + other, with factors that are not shared with this object; `other` None adds nothing."""
        return FactoredMoment(self._matrix if other is None else lambda: self._matrix() + other)

    @cached_property
    def cholesky(self) -> Tensor:
        """The lower Cholesky factor.

        Raises:
            InputError: C is singular.
        """
        matrix = self._matrix()
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # Rounding can hide a direction that no key has. The part of it that other directions do not explain is then
        # about 1e-5 of it or less; for the starter, that part is at least 0.2 of every direction.
        if failed or (factor.diagonal() ** 2 < 1e-4 * matrix.diagonal()).any():
            raise InputError(
                f"the covariance is singular: its texts do not cover all {len(matrix)} directions; collect more text"
            )
        return factor

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `[key_width]`, ascending, and eigenvectors in columns."""
        values, vectors = torch.linalg.eigh(self._matrix())
        return values, vectors

    def solve(self, keys: Tensor) -> Tensor:
        """C^-1 K for keys in columns, `[key_width, n]` float64."""
        return torch.cholesky_solve(keys.double().cpu(), self.cholesky)

    def solve_regularized(self, keys: Tensor, weight: float) -> Tensor:
        """(weight C + K K^T)^-1 K `[key_width, n]`, by Woodbury: C^-1 K (weight I + K^T C^-1 K)^-1."""
        keys = keys.double().cpu()
        solution = self.solve(keys)
        inner = weight * torch.eye(keys.shape[1], dtype=torch.float64) + keys.T @ solution
        return torch.linalg.solve(inner, solution.T, left=True).T
