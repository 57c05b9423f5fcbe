"""A table of scores while it fills: exact where it was traced, estimated elsewhere, and never the one for the other."""

from collections.abc import Sequence
from dataclasses import dataclass

Row = tuple[float | None, ...]


@dataclass(frozen=True)
class Merged:
    """Scores with estimates in the cells that have no exact one; `estimated` tells which those are."""

    rows: tuple[Row, ...]
    estimated: tuple[tuple[bool, ...], ...]

    @property
    def total(self) -> int:
        """How many cells hold a number."""
        return sum(value is not None for row in self.rows for value in row)

    @property
    def exact(self) -> int:
        """How many of them were traced."""
        return self.total - sum(map(sum, self.estimated))


def merge(
    scores: Sequence[Sequence[float | None]], estimate: Sequence[Sequence[float | None]] | None
) -> Merged:
    """Put the estimate of one kind (`TraceResult.estimate.get(kind)`) where its `scores` have no number yet.

    Raises:
        ValueError: the two tables differ in shape.
    """
    exact = tuple(tuple(None if value is None else float(value) for value in row) for row in scores)
    if not estimate:
        return Merged(exact, tuple((False,) * len(row) for row in exact))
    if [len(row) for row in estimate] != [len(row) for row in exact]:
        raise ValueError("the estimate and the scores differ in shape")
    rows, estimated = [], []
    for known, guessed in zip(exact, estimate, strict=True):
        cells = [
            (value, False) if value is not None or guess is None else (float(guess), True)
            for value, guess in zip(known, guessed, strict=True)
        ]
        rows.append(tuple(value for value, _ in cells))
        estimated.append(tuple(mark for _, mark in cells))
    return Merged(tuple(rows), tuple(estimated))
