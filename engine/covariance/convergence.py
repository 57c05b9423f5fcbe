"""Whether more text still moves the solve: how far the directions C^-1 k turn while the tokens double.

Edits use the second moment C only through C^-1 k, and far fewer tokens than the customary 100,000 articles fix that
direction (arXiv 2506.04226: under 0.3 % of them). Which number is enough depends on model, layer and texts, so it is
measured here: some probe keys, solved for anew whenever the tokens have doubled. What remains is sampling noise, about
key_width / tokens where tokens count as independent: of the starter's layer 5 (width 1536) and the shipped texts
1 - cos is 0.082 at 19,239 tokens and 0.040 at 38,526.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from .moments import FactoredMoment


@dataclass(frozen=True)
class ConvergencePoint:
    """At `tokens` keys: 1 - cos between C^-1 k now and one point earlier, its mean and its largest over the probes."""

    tokens: int
    mean: float
    largest: float


@dataclass
class Convergence:
    """The probes of one layer, float64 `[key_width, n]` on the CPU, and the curve of how much their solves turned.

    The probes are keys that are in the sums as well. That changes nothing: adding k k^T to C scales C^-1 k and does
    not turn it (Sherman and Morrison 1950).
    """

    probes: Tensor
    # Unit columns C^-1 k when it was last `checked_tokens`, at so many tokens; None as long as C was singular.
    directions: Tensor | None = None
    checked_tokens: int = 0
    curve: list[ConvergencePoint] = field(default_factory=list)

    def due(self, tokens: int) -> bool:
        """Whether the tokens have doubled since the last look; with fewer than key_width C is singular for sure."""
        return tokens >= max(2 * self.checked_tokens, self.probes.shape[0])

    def look(self, total: Tensor, tokens: int) -> None:
        """Solve for the probes with the sum of k k^T over `tokens` keys; add a point if there was a solution before.

        Only the upper triangle of `total` is read. Costs one Cholesky factorization.
        """
        before, self.directions, self.checked_tokens = (
            self.directions,
            _directions(total, self.probes),
            tokens,
        )
        if before is not None and self.directions is not None:
            turned = (1 - (before * self.directions).sum(0)).clamp_min(0)
            self.curve.append(ConvergencePoint(tokens, turned.mean().item(), turned.max().item()))

    def has_converged(self, tolerance: float) -> bool:
        """Whether the last doubling turned the solves by `tolerance` or less, in the mean."""
        return bool(self.curve) and self.curve[-1].mean <= tolerance


def _directions(total: Tensor, probes: Tensor) -> Tensor | None:
    # The number of tokens only scales a solution. A factorization reads the lower triangle: the upper one, transposed.
    try:
        solved = FactoredMoment(total.T).solve(probes)
    except InputError:  # singular: not enough text yet
        return None
    # In memory as a file gives it back: the order of a sum, and so its last bit, follows the layout.
    return torch.nn.functional.normalize(solved, dim=0).contiguous()
