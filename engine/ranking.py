"""One number to rank edits by, from the metrics that the facts allow, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import RESAMPLES

# S is the harmonic mean of the first three; without a true target nothing is compared with it, so that the share of
# first choices stands in for what is likelier.
_COMPARED = ("ES", "PS", "NS")
_FIRST_CHOICE = ("EA", "PA", "NA")


@dataclass(frozen=True)
class Combined:
    """The harmonic mean of the metrics in `of`, with its 95 % bootstrap interval over `count` cases."""

    of: list[str]
    value: float
    low: float
    high: float
    count: int


def combined(cases: Sequence[Mapping[str, float]], seed: int) -> Combined:
    """S, or the harmonic mean of those of its three parts that the cases have.

    `cases` hold each case's own metrics (`CaseResult.numbers()`). With all three the numbers are those of
    `evaluation.summarise`'s S to the bit.
    """
    names = _COMPARED if any("ES" in case for case in cases) else _FIRST_CHOICE
    of = [name for name in names if any(name in case for case in cases)]
    table = np.array([[case.get(name, np.nan) for name in of] for case in cases])
    draws = np.random.default_rng(seed).integers(0, len(table), size=(RESAMPLES, len(table)))
    value = _harmonic(_means(table))
    low, high = np.nanquantile(_harmonic(_means(table[draws])), [0.025, 0.975])
    count = int((~np.isnan(table)).sum(axis=0).min())
    return Combined(of, float(value), float(low), float(high), count)


def _means(values: np.ndarray) -> np.ndarray:
    """Means over cases of what is there: `[.., cases, metrics]` -> `[.., metrics]`; NaN where nothing is."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(axis=-2)
    return np.divide(total, there.sum(axis=-2), out=np.full(total.shape, np.nan), where=there.any(axis=-2))


def _harmonic(values: np.ndarray) -> np.ndarray:
    """Over the last axis; zero where one of them is zero."""
    with np.errstate(divide="ignore"):
        means = values.shape[-1] / (1.0 / values).sum(axis=-1)
    return np.where((values == 0).any(axis=-1), 0.0, means)
