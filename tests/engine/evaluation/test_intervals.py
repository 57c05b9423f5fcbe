"""Intervals and differences against plain loops, and the comparison of protocols."""

import random

import numpy as np
import pytest

from retcon.engine.evaluation.intervals import compare_rows, summarize_ratio, summarize_rows
from retcon.engine.evaluation.metrics import METRICS, compare_protocols

RANDOM = random.Random(4)
A = [
    {"ES": RANDOM.random(), "PS": RANDOM.random(), "NS": RANDOM.random(), "FE": RANDOM.random()}
    for _ in range(30)
]
B = [{name: value**0.5 for name, value in row.items()} for row in A]
del A[3]["PS"], B[7]["PS"], A[9]["FE"]


def draws(count: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, count, size=(1000, count)).tolist()


def mean(rows: list[dict], name: str) -> float:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values)


def score(rows: list[dict]) -> float:
    return 3 / sum(1 / mean(rows, name) for name in ("ES", "PS", "NS"))


def test_means_and_bootstrap_intervals() -> None:
    metrics = summarize_rows(A, seed=2)
    assert list(metrics) == ["S", "ES", "PS", "NS", "FE"], "in the order of the table"
    for name in ("ES", "PS", "FE"):
        sampled = [mean([A[i] for i in sample], name) for sample in draws(30, 2)]
        assert metrics[name].value == pytest.approx(mean(A, name))
        assert (metrics[name].low, metrics[name].high) == pytest.approx(
            tuple(np.quantile(sampled, [0.025, 0.975]))
        )
    assert [metrics[name].count for name in ("ES", "PS", "FE", "S")] == [30, 29, 29, 29]
    sampled = [score([A[i] for i in sample]) for sample in draws(30, 2)]
    assert metrics["S"].value == pytest.approx(score(A))
    assert (metrics["S"].low, metrics["S"].high) == pytest.approx(tuple(np.quantile(sampled, [0.025, 0.975])))


def test_score_without_a_part_and_with_a_zero() -> None:
    assert "S" not in summarize_rows([{"ES": 1.0, "PS": 1.0}], seed=1)
    assert summarize_rows([{"ES": 1.0, "PS": 0.0, "NS": 1.0}], seed=1)["S"].value == 0
    one = summarize_rows([{"ES": 0.25}], seed=1)["ES"]
    assert (one.value, one.low, one.high, one.count) == (0.25, 0.25, 0.25, 1)


def test_difference_is_paired() -> None:
    changes = compare_rows(A, B, seed=2)
    both = [i for i in range(30) if i not in (3, 7)]
    change = changes["PS"]
    assert change.count == 28
    assert change.a == pytest.approx(mean([A[i] for i in both], "PS"))
    assert change.difference == pytest.approx(mean([B[i] for i in both], "PS") - change.a)
    sampled = []
    for sample in draws(30, 2):
        there = [i for i in sample if i in both]
        sampled.append(mean([B[i] for i in there], "PS") - mean([A[i] for i in there], "PS"))
    assert (change.low, change.high) == pytest.approx(tuple(np.quantile(sampled, [0.025, 0.975])))
    # The interval of the paired difference is narrower than that of one mean.
    apart = summarize_rows(A, 2)["ES"]
    assert changes["ES"].high - changes["ES"].low < apart.high - apart.low
    assert changes["S"].difference == pytest.approx(changes["S"].b - changes["S"].a)
    assert changes["S"].low > 0
    assert all(
        change.difference == change.low == change.high == 0 for change in compare_rows(A, A, 1).values()
    )


def test_perplexity_over_texts() -> None:
    sums, base, counts = [20.0, 30.0, 5.0], [18.0, 31.0, 4.0], [10, 12, 3]
    metrics = summarize_ratio(sums, counts, base, seed=3)
    assert metrics["PPL"].value == pytest.approx(np.exp(55 / 25))
    assert metrics["PD"].value == pytest.approx(np.exp(55 / 25) / np.exp(53 / 25) - 1)
    changes = []
    for sample in draws(3, 3):
        tokens = sum(counts[i] for i in sample)
        now, then = (sum(values[i] for i in sample) / tokens for values in (sums, base))
        changes.append(np.exp(now - then) - 1)
    assert (metrics["PD"].low, metrics["PD"].high) == pytest.approx(
        tuple(np.quantile(changes, [0.025, 0.975]))
    )
    assert set(summarize_ratio(sums, counts, None, seed=3)) == {"PPL"}


PROTOCOL = {
    "teacher_forced": "so",
    "cases": 3,
    "cases_sha256": "aa",
    "seed": 1,
    "device": "cpu",
    "suite": "full",
}


def test_ignored_fields_of_protocols() -> None:
    assert compare_protocols(PROTOCOL, dict(PROTOCOL)) == []
    # The device, the suite, the facts' name, and fields of one protocol only do not matter.
    other = PROTOCOL | {"device": "cuda:0", "suite": "quick", "chat": "so", "facts": "another name"}
    assert compare_protocols(PROTOCOL, other) == []


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 2), ("cases_sha256", "bb"), ("cases", 4), ("teacher_forced", "otherwise")]
)
def test_differing_protocols(field: str, value: object) -> None:
    (difference,) = compare_protocols(PROTOCOL, PROTOCOL | {field: value})
    assert (difference.field, difference.a, difference.b) == (field, PROTOCOL[field], value)
    assert str(difference) == f"{field} ({PROTOCOL[field]} vs. {value})"


def test_empty_protocol_is_not_comparable() -> None:
    assert [one.field for one in compare_protocols({}, {})] == ["cases"]


def test_every_metric_is_described() -> None:
    for name, meaning in METRICS.items():
        assert meaning.better in ("higher", "lower"), name
        assert meaning.over in ("cases", "requests", "texts")
        assert meaning.text and meaning.needs and meaning.range
