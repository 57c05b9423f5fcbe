"""Average indirect effects of a trace per kind, token role and layer (Meng et al. 2022, section 2.2).

Indirect effect IE = restored - low. AIE is its mean over facts, with a bootstrap interval over facts. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

ROLES = ("first subject", "middle subject", "last subject", "first after", "further", "last")
_RESAMPLES = 500
_SEED = 0


class TracedFact(Protocol):
    """A traced fact: a row of the catalog or a result of the engine."""

    tokens: list[str]
    subject_begin: int
    subject_end: int
    low: float | None
    scores: dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """Mean indirect effect over `count` facts; `low` and `high` bound its 95 % bootstrap interval."""

    kind: str
    role: str
    layer: int
    mean: float
    low: float
    high: float
    count: int


def average_effects(results: Sequence[TracedFact]) -> list[Effect]:
    """The effects of all kinds, roles and layers in the results. Several tokens of one role count as their mean."""
    collected: dict[tuple[str, str], list[np.ndarray]] = {}
    for result in results:
        roles = token_roles(len(result.tokens), result.subject_begin, result.subject_end)
        for kind, table in result.scores.items():
            for role, tokens in roles.items():
                rows = [table["scores"][token] for token in tokens if table["scores"][token][0] is not None]
                if rows:
                    effect = np.mean(np.asarray(rows, dtype=float), axis=0) - (result.low or 0.0)
                    collected.setdefault((kind, role), []).append(effect)
    effects = []
    for (kind, role), rows in collected.items():
        facts = np.stack(rows)
        mean = facts.mean(axis=0)
        low, high = _interval(facts)
        for layer in range(facts.shape[1]):
            numbers = (float(mean[layer]), float(low[layer]), float(high[layer]))
            effects.append(Effect(kind, role, layer, *numbers, len(facts)))
    return effects


def token_roles(length: int, begin: int, end: int) -> dict[str, list[int]]:
    """The token indices of each role. A subject of one token has it as first and last."""
    return {
        "first subject": [begin],
        "middle subject": list(range(begin + 1, end - 1)),
        "last subject": [end - 1],
        "first after": [end] if end < length - 1 else [],
        "further": list(range(end + 1, length - 1)),
        "last": [length - 1],
    }


def _interval(facts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of the mean over the first axis `[facts, layers]`."""
    samples = np.random.default_rng(_SEED).integers(0, len(facts), size=(_RESAMPLES, len(facts)))
    # Counts of each fact per resample: the means are then one matrix product.
    counts = np.stack([np.bincount(row, minlength=len(facts)) for row in samples])
    means = counts @ facts / len(facts)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high
