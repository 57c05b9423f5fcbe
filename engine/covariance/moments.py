"""The second moment as the methods use it: factored once, solved against a few keys (n x n, never d x d again)."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError


class FactoredMoment:
    """C = E[k k^T] `[key_width, key_width]`, or what reads it; its float64 factors are made on the CPU when needed.

    They are kept, C is not: a search for values should not have to share the memory with matrices that come after it.
    """

    def __init__(self, moment: Tensor | Callable[[], Tensor]) -> None:
        self._moment = moment

    def _matrix(self) -> Tensor:
        return (self._moment if isinstance(self._moment, Tensor) else self._moment()).double().cpu()

    def plus(self, other: Tensor | None) -> "FactoredMoment":
        """C and another second moment of the same size together, if there is one; its factors go when it goes."""
        return FactoredMoment(self._matrix if other is None else lambda: self._matrix() + other)

    @cached_property
    def cholesky(self) -> Tensor:
        """The lower Cholesky factor.

        Raises:
            InputError: C is singular; says what to do.
        """
        matrix = self._matrix()
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # Rounding can hide a direction that was never seen. What of a direction the others do not explain is then
        # some 1e-5 of it or less; of the starter's it is 0.2 at least.
        if failed or (factor.diagonal() ** 2 < 1e-4 * matrix.diagonal()).any():
            raise InputError(
                f"the covariance is singular: {len(matrix)} directions were not all seen; collect more text for it"
            )
        return factor

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `[key_width]`, rising, and the eigenvectors in columns."""
        values, vectors = torch.linalg.eigh(self._matrix())
        return values, vectors

    def solve(self, keys: Tensor) -> Tensor:
        """C^-1 K for keys in columns, `[key_width, n]` float64."""
        return torch.cholesky_solve(keys.double().cpu(), self.cholesky)

    def solve_regularized(self, keys: Tensor, weight: float) -> Tensor:
        """(weight C + K K^T)^-1 K `[key_width, n]`, by Woodbury: C^-1 K (weight I + K^T C^-1 K)^-1."""
        keys = keys.double().cpu()
        solved = self.solve(keys)
        inner = weight * torch.eye(keys.shape[1], dtype=torch.float64) + keys.T @ solved
        return torch.linalg.solve(inner, solved.T, left=True).T
