"""Convergence of a second moment C: how far the directions C^-1 k change while the number of tokens doubles.

Edits use C only through C^-1 k, and far fewer tokens than the usual 100,000 articles determine that direction (arXiv
2506.04226: under 0.3 % of them). The required number depends on the model, the layer and the texts, so it is measured:
some probe keys are solved for each time the tokens have doubled. The remaining change is sampling noise, about
key_width / tokens for independent tokens. Example: layer 5 of the starter (key_width 1536) and the shipped texts give 1
- cos = 0.082 at 19,239 tokens and 0.040 at 38,526.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from .moments import FactoredMoment


@dataclass(frozen=True)
class ConvergencePoint:
    """1 - cos between C^-1 k at `tokens` and at the point before: mean and largest over the probes."""

    tokens: int
    mean: float
    largest: float


@dataclass
class Convergence:
    """The probe keys of one layer, float64 `[key_width, n]` on the CPU, and the curve of their direction changes.

    The probes are part of the sums. This does not bias the curve: adding k k^T to C scales C^-1 k and keeps its
    direction (Sherman and Morrison 1950).
    """

    probes: Tensor
    # Unit columns C^-1 k at the last check; None while C is singular.
    directions: Tensor | None = None
    checked_tokens: int = 0
    curve: list[ConvergencePoint] = field(default_factory=list)

    def is_due(self, tokens: int) -> bool:
        """Whether the tokens have doubled since the last check. With fewer than key_width tokens, C is singular."""
        return tokens >= max(2 * self.checked_tokens, self.probes.shape[0])

    def update(self, total: Tensor, tokens: int) -> None:
        """Compute C^-1 k for the probe keys and add a point to the convergence curve; costs one Cholesky factorization.

        `total` is the sum of k k^T over `tokens` keys, float64 `[key_width, key_width]`; only its upper triangle is
        read.
        """
        before, self.directions = self.directions, _solve_directions(total, self.probes)
        self.checked_tokens = tokens
        if before is not None and self.directions is not None:
            direction_change = (1 - (before * self.directions).sum(0)).clamp_min(0)
            self.curve.append(
                ConvergencePoint(tokens, direction_change.mean().item(), direction_change.max().item())
            )

    def has_converged(self, tolerance: float) -> bool:
        """Whether the last doubling of the tokens changed the directions by at most `tolerance` (mean of 1 - cos)."""
        return bool(self.curve) and self.curve[-1].mean <= tolerance


def _solve_directions(total: Tensor, probes: Tensor) -> Tensor | None:
    # The number of tokens only scales a solution. The factorization reads the lower triangle: transpose the upper one.
    try:
        solution = FactoredMoment(total.T).solve(probes)
    except InputError:  # singular: too few tokens so far
        return None
    # Contiguous, as read from a file: the memory layout determines the order of a sum, and so its last bit.
    return torch.nn.functional.normalize(solution, dim=0).contiguous()
