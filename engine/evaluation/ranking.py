"""One number to rank edits by, from the metrics that the facts allow, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from .intervals import PARTS_OF_S, Row, harmonic_mean

# Without a true target nothing is compared with it, so that the share of first choices stands in for what is likelier.
_FIRST_CHOICE = ("EA", "PA", "NA")


@dataclass(frozen=True)
class Combined:
    """The harmonic mean of the metrics in `of`, with its 95 % bootstrap interval over `count` cases."""

    of: list[str]
    value: float
    low: float
    high: float
    count: int


def combined(cases: Sequence[Row], seed: int) -> Combined:
    """S, or the harmonic mean of those of its three parts that the cases have.

    `cases` hold each case's own metrics (`CaseResult.numbers()`).
    """
    names = PARTS_OF_S if any("ES" in case for case in cases) else _FIRST_CHOICE
    of = [name for name in names if any(name in case for case in cases)]
    found = harmonic_mean(cases, of, seed)
    return Combined(of, found.value, found.low, found.high, found.count)
