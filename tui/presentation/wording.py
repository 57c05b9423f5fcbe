"""How far more text still turned the solve, in words and as bars: the curve of a covariance."""

import math
from collections.abc import Sequence
from typing import Any

Points = Sequence[dict[str, Any]]

_WIDTH = 30
# Bars are on a scale of logarithms, from here (no bar) to 1 (a full one).
_LEAST = 1e-4


def turned(curve: Points) -> str:
    """The last point in words."""
    if not curve:
        return "no curve: it takes two doublings of the tokens"
    last = curve[-1]
    return f"the last doubling, to {last['tokens']:,} tokens, turned C^-1 k by {last['mean']:.2g} (1 - cos)"


def bars(curve: Points) -> list[str]:
    """A line for each point: tokens, mean and largest 1 - cos, and a bar of the mean."""
    lines = [f"{'tokens':>11}  {'1 - cos':>7}  {'largest':>7}  (mean, {_LEAST:g} to 1 by powers of ten)"]
    for point in curve:
        bar = "█" * _length(point["mean"])
        lines.append(f"{point['tokens']:>11,}  {point['mean']:7.2g}  {point['largest']:7.2g}  {bar}".rstrip())
    return lines


def _length(value: float) -> int:
    if value <= _LEAST:
        return 0
    return max(1, round(_WIDTH * (1 - math.log(min(value, 1.0)) / math.log(_LEAST))))
