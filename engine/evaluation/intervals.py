"""Means with bootstrap intervals, paired differences, and the score that ranks edits. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .metrics import METRICS

RESAMPLES = 1_000
PARTS_OF_S = ("ES", "PS", "NS")
# Without a true target, first choice replaces "likelier than the true target".
_FIRST_CHOICE_PARTS = ("EA", "PA", "NA")

# Metrics of one case (or request, or text): name -> value.
Row = Mapping[str, float]


@dataclass(frozen=True)
class Metric:
    """A mean with its 95 % bootstrap interval over the `count` cases that have the metric."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class MetricChange:
    """A metric in two evaluations, over the `count` cases that have it in both.

    The 95 % interval is that of the paired difference. It is None for a metric that is not a mean over cases.
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
    """Means over rows with bootstrap intervals. S is computed from the means of its parts, also in each sample."""
    metrics = {}
    samples = _samples(len(rows), seed)
    for name in METRICS:
        values = _column(rows, name)
        count = int((~np.isnan(values)).sum())
        if count:
            metrics[name] = _metric(float(np.nanmean(values)), _means(values[samples]), count)
    if all(name in metrics for name in PARTS_OF_S):
        metrics["S"] = compute_harmonic_mean(rows, PARTS_OF_S, seed)
    return {name: metrics[name] for name in METRICS if name in metrics}


def compute_harmonic_mean(rows: Sequence[Row], parts: Sequence[str], seed: int) -> Metric:
    """The harmonic mean of the means of some metrics, with its interval. For `PARTS_OF_S` it equals S to the bit."""
    value, sampled = _score(rows, parts, _samples(len(rows), seed))
    return _metric(value, sampled, min(int((~np.isnan(_column(rows, name))).sum()) for name in parts))


@dataclass(frozen=True)
class RankingScore(Metric):
    """The harmonic mean of the metrics in `of`."""

    of: list[str]


def compute_ranking_score(rows: Sequence[Row], seed: int) -> RankingScore:
    """S, or the harmonic mean of those of its parts that the rows have. Sweeps rank settings by it."""
    names = PARTS_OF_S if any("ES" in row for row in rows) else _FIRST_CHOICE_PARTS
    of = [name for name in names if any(name in row for row in rows)]
    return RankingScore(**asdict(compute_harmonic_mean(rows, of, seed)), of=of)


def compare_rows(a: Sequence[Row], b: Sequence[Row], seed: int) -> dict[str, MetricChange]:
    """Changes of all metrics from `a` to `b`. Row i of both is the same case."""
    metrics = {}
    samples = _samples(len(a), seed)
    for name in METRICS:
        one, other = _column(a, name), _column(b, name)
        both = ~np.isnan(one) & ~np.isnan(other)
        if both.any():
            one, other = np.where(both, one, np.nan), np.where(both, other, np.nan)
            interval = _interval(_means(other[samples]) - _means(one[samples]))
            means = float(np.nanmean(one)), float(np.nanmean(other))
            metrics[name] = MetricChange(*means, *interval, int(both.sum()))
    if all(name in metrics for name in PARTS_OF_S):
        (value_a, at_a), (value_b, at_b) = (_score(rows, PARTS_OF_S, samples) for rows in (a, b))
        count = min(metrics[name].count for name in PARTS_OF_S)
        metrics["S"] = MetricChange(value_a, value_b, *_interval(at_b - at_a), count)
    return {name: metrics[name] for name in METRICS if name in metrics}


def summarize_ratio(
    totals: Sequence[float], counts: Sequence[float], base_totals: Sequence[float] | None, seed: int
) -> dict[str, Metric]:
    """PPL = exp(sum of NLL / tokens) and PD = PPL / PPL(base) - 1, with bootstrap intervals over texts."""
    samples = _samples(len(totals), seed)
    total, count = np.array(totals), np.array(counts)

    def perplexity(sums: np.ndarray) -> tuple[float, np.ndarray]:
        sampled = np.exp(sums[samples].sum(axis=1) / count[samples].sum(axis=1))
        return float(np.exp(sums.sum() / count.sum())), sampled

    value, sampled = perplexity(total)
    metrics = {"PPL": _metric(value, sampled, len(totals))}
    if base_totals is not None:
        base, base_sampled = perplexity(np.array(base_totals))
        metrics["PD"] = _metric(value / base - 1, sampled / base_sampled - 1, len(totals))
    return metrics


def _samples(count: int, seed: int) -> np.ndarray:
    """Indices of the bootstrap samples, `[samples, count]`."""
    return np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row.get(name, np.nan) for row in rows], dtype=float)


def _means(values: np.ndarray) -> np.ndarray:
    """Row means without NaN values, `[samples, cases]` -> `[samples]`. A row of NaN values stays NaN."""
    is_known = ~np.isnan(values)
    total = np.where(is_known, values, 0.0).sum(axis=1)
    return np.divide(
        total, is_known.sum(axis=1), out=np.full(len(values), np.nan), where=is_known.any(axis=1)
    )


def _score(rows: Sequence[Row], parts: Sequence[str], samples: np.ndarray) -> tuple[float, np.ndarray]:
    """The harmonic mean of the means of the parts, and its value in each bootstrap sample `[samples]`."""
    columns = [_column(rows, name) for name in parts]
    whole = np.array([[np.nanmean(column)] for column in columns])
    return float(_harmonic(whole)[0]), _harmonic(np.stack([_means(column[samples]) for column in columns]))


def _harmonic(parts: np.ndarray) -> np.ndarray:
    """The harmonic mean over the first axis. It is 0 if a part is 0."""
    with np.errstate(divide="ignore"):
        return np.where((parts == 0).any(axis=0), 0.0, len(parts) / (1.0 / parts).sum(axis=0))


def _metric(value: float, samples: np.ndarray, count: int) -> Metric:
    return Metric(value, *_interval(samples), count)


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return float(low), float(high)
