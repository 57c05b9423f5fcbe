"""The ranking score of sweeps: S, or the harmonic mean of those of its parts that the facts allow."""

import numpy as np
import pytest

from retcon.engine.evaluation.cases import Case, CaseResult, Neighbor
from retcon.engine.evaluation.intervals import compute_ranking_score
from retcon.engine.evaluation.run import summarize
from retcon.engine.evaluation.scoring import Score


def results(seed: int, *, true: bool = True, paraphrases: int = 2, neighbors: int = 3) -> list[CaseResult]:
    random = np.random.default_rng(seed)

    def score() -> Score:
        return Score(float(random.uniform(0, 3)), bool(random.integers(2)), 1.0, True)

    case = Case("The", "a", "b" if true else None, ("x",) * paraphrases, (Neighbor("y", "b"),) * neighbors)
    return [
        CaseResult(
            case, score(), score() if true else None, [score() for _ in range(paraphrases)],
            [score() for _ in range(paraphrases if true else 0)], [score() for _ in range(neighbors)],
            [score() for _ in range(neighbors)], [], [],
        )
        for _ in range(9)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_ranking_score_equals_s(seed: int) -> None:
    case_results = results(seed)
    s = summarize(case_results, seed=3)["S"]
    one = compute_ranking_score([result.metrics() for result in case_results], seed=3)
    assert one.of == ["ES", "PS", "NS"]
    assert (one.value, one.low, one.high, one.count) == (s.value, s.low, s.high, s.count)


@pytest.mark.parametrize(
    ("lacking", "of"),
    [
        ({"neighbors": 0}, ["ES", "PS"]),
        ({"paraphrases": 0}, ["ES", "NS"]),
        ({"paraphrases": 0, "neighbors": 0}, ["ES"]),
        ({"true": False, "neighbors": 0}, ["EA", "PA"]),
        ({"true": False}, ["EA", "PA", "NA"]),
    ],
)
def test_ranking_score_without_some_parts(lacking: dict[str, int], of: list[str]) -> None:
    case_results = results(1, **lacking)  # type: ignore[arg-type]
    one = compute_ranking_score([result.metrics() for result in case_results], seed=1)
    metrics = summarize(case_results, seed=1)
    assert one.of == of
    assert one.value == pytest.approx(len(of) / sum(1 / metrics[name].value for name in of))
    assert one.low <= one.value <= one.high


def test_ranking_score_is_zero_if_a_part_is_zero() -> None:
    assert compute_ranking_score([{"ES": 1.0, "PS": 0.0, "NS": 1.0}] * 4, seed=1).value == 0.0
