"""Means with bootstrap intervals, and the paired difference of two evaluations. Free of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import METRICS

RESAMPLES = 1_000
PARTS_OF_S = ("ES", "PS", "NS")

Row = Mapping[str, float]  # metric -> value, of one case (or request, or text)


@dataclass(frozen=True)
class Metric:
    """A mean with its 95 % bootstrap interval; `count` cases had what it needs."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Change:
    """A metric in two evaluations, over the `count` cases where both have it; the interval is the paired difference's.

    What is no mean over cases has no interval.
    """

    a: float
    b: float
    low: float | None
    high: float | None
    count: int

    @property
    def difference(self) -> float:
        return self.b - self.a


def summarize_rows(rows: Sequence[Row], seed: int) -> dict[str, Metric]:
    """Means over rows with bootstrap intervals; S from the means of its three, also in each bootstrap sample."""
    found = {}
    samples = _samples(len(rows), seed)
    for name in METRICS:
        values = _column(rows, name)
        count = int((~np.isnan(values)).sum())
        if count:
            found[name] = _metric(float(np.nanmean(values)), _means(values[samples]), count)
    if all(name in found for name in PARTS_OF_S):
        found["S"] = harmonic_mean(rows, PARTS_OF_S, seed)
    return {name: found[name] for name in METRICS if name in found}


def harmonic_mean(rows: Sequence[Row], parts: Sequence[str], seed: int) -> Metric:
    """The harmonic mean of the means of some metrics, with its interval; of the three that make S, S to the bit."""
    value, sampled = _score(rows, parts, _samples(len(rows), seed))
    return _metric(value, sampled, min(int((~np.isnan(_column(rows, name))).sum()) for name in parts))


def compare_rows(a: Sequence[Row], b: Sequence[Row], seed: int) -> dict[str, Change]:
    """What changed from `a` to `b`, row i of both being the same case."""
    found = {}
    samples = _samples(len(a), seed)
    for name in METRICS:
        one, other = _column(a, name), _column(b, name)
        both = ~np.isnan(one) & ~np.isnan(other)
        if both.any():
            one, other = np.where(both, one, np.nan), np.where(both, other, np.nan)
            change = _metric(0.0, _means(other[samples]) - _means(one[samples]), int(both.sum()))
            found[name] = Change(
                float(np.nanmean(one)), float(np.nanmean(other)), change.low, change.high, change.count
            )
    if all(name in found for name in PARTS_OF_S):
        (value_a, at_a), (value_b, at_b) = (_score(rows, PARTS_OF_S, samples) for rows in (a, b))
        count = min(found[name].count for name in PARTS_OF_S)
        change = _metric(0.0, at_b - at_a, count)
        found["S"] = Change(value_a, value_b, change.low, change.high, count)
    return {name: found[name] for name in METRICS if name in found}


def summarize_ratio(
    totals: Sequence[float], counts: Sequence[float], base_totals: Sequence[float] | None, seed: int
) -> dict[str, Metric]:
    """PPL = exp(sum of NLL / tokens) over texts, and PD = PPL / PPL(base) - 1, resampled over texts."""
    samples = _samples(len(totals), seed)
    total, count = np.array(totals), np.array(counts)

    def perplexity(sums: np.ndarray) -> tuple[float, np.ndarray]:
        sampled = np.exp(sums[samples].sum(axis=1) / count[samples].sum(axis=1))
        return float(np.exp(sums.sum() / count.sum())), sampled

    value, sampled = perplexity(total)
    found = {"PPL": _metric(value, sampled, len(totals))}
    if base_totals is not None:
        base, base_sampled = perplexity(np.array(base_totals))
        found["PD"] = _metric(value / base - 1, sampled / base_sampled - 1, len(totals))
    return found


def _samples(count: int, seed: int) -> np.ndarray:
    """Indices of the bootstrap samples, `[samples, count]`."""
    return np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in rows], dtype=float)


def _means(values: np.ndarray) -> np.ndarray:
    """Row means over what is there, `[samples, cases]` -> `[samples]`; a row with nothing stays NaN."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(total, there.sum(axis=1), out=np.full(len(values), np.nan), where=there.any(axis=1))


def _score(rows: Sequence[Row], parts: Sequence[str], samples: np.ndarray) -> tuple[float, np.ndarray]:
    """The harmonic mean of the means of the parts (S, of its three), and that in each bootstrap sample `[samples]`."""
    columns = [_column(rows, name) for name in parts]
    whole = np.array([[np.nanmean(column)] for column in columns])
    return float(_harmonic(whole)[0]), _harmonic(np.stack([_means(column[samples]) for column in columns]))


def _harmonic(parts: np.ndarray) -> np.ndarray:
    """Over the first axis; 0 where one of them is."""
    with np.errstate(divide="ignore"):
        return np.where((parts == 0).any(axis=0), 0.0, len(parts) / (1.0 / parts).sum(axis=0))


def _metric(value: float, samples: np.ndarray, count: int) -> Metric:
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return Metric(value, float(low), float(high), count)
