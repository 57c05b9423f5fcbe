"""One rewritten fact with its evaluation prompts, and the results of its evaluation."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .matching import begins_with, contains_phrase
from .scoring import Score


@dataclass(frozen=True)
class Neighbor:
    """A neighborhood prompt: a prompt about another subject, and the answer that an edit must not change."""

    prompt: str
    true: str


@dataclass(frozen=True)
class PortabilityQuestion:
    """A multi-hop question whose answer depends on the rewritten fact. The first of `answers` is scored."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A text about an entity that has the new target as its attribute. `name` is that entity."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Case:
    """One rewritten fact and its evaluation prompts. All prompts are complete: they contain the subject."""

    prompt: str
    target_new: str
    target_true: str | None = None
    eval_paraphrases: tuple[str, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    subject: str | None = None
    negations: tuple[str, ...] = ()
    portability: tuple[PortabilityQuestion, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()


def hash_cases(cases: Sequence[Case]) -> str:
    """The sha256 of all fields of the cases."""
    return hashlib.sha256(json.dumps([asdict(case) for case in cases]).encode()).hexdigest()


@dataclass
class CaseResult:
    """Scores and completions of one case. Each list runs over the prompts of the case of that kind."""

    case: Case
    new: Score
    true: Score | None
    paraphrases_new: list[Score]
    paraphrases_true: list[Score]
    neighbors_new: list[Score]
    neighbors_true: list[Score]
    portability: list[Score]
    negations: list[Score]
    completion: str | None = None
    paraphrase_completions: list[str] = field(default_factory=list)
    neighbor_completions: list[str] = field(default_factory=list)
    portability_completions: list[str] = field(default_factory=list)
    negation_completions: list[str] = field(default_factory=list)
    reply: str | None = None
    neighbor_divergences: list[float] = field(default_factory=list)
    generations: list[str] = field(default_factory=list)
    fluency: float | None = None
    consistency: float | None = None
    essence: float | None = None

    def metrics(self) -> dict[str, float]:
        """All metrics of this case that were measured, by name (see `metrics.METRICS`)."""
        return self._teacher_forced_metrics() | self._generation_metrics() | self._drift_metrics()

    def _teacher_forced_metrics(self) -> dict[str, float]:
        values: dict[str, float] = {}
        true = [self.true] if self.true else []
        for letter, scores in (
            ("E", [self.new]), ("P", self.paraphrases_new), ("N", self.neighbors_true), ("H", self.portability)
        ):  # fmt: skip
            if scores:
                values[f"{letter}A"] = _mean(score.first_choice for score in scores)
                values[f"T{letter}"] = _mean(score.token_accuracy for score in scores)
        # (letter, scores of the answer that should be likelier, scores of the other answer)
        for letter, right, wrong in (
            ("E", [self.new], true), ("P", self.paraphrases_new, self.paraphrases_true),
            ("N", self.neighbors_true, self.neighbors_new),
        ):  # fmt: skip
            if right and wrong:
                pairs = list(zip(right, wrong, strict=True))
                values[f"{letter}S"] = _mean(one.nll < other.nll for one, other in pairs)
                values[f"{letter}M"] = _mean(np.exp(-one.nll) - np.exp(-other.nll) for one, other in pairs)
        if self.negations:
            values["XA"] = _mean(score.first_choice for score in self.negations)
        return values

    def _generation_metrics(self) -> dict[str, float]:
        case, values = self.case, {}
        own = [] if self.completion is None else [self.completion]
        for name, texts in (
            ("FE", own), ("FP", self.paraphrase_completions), ("FX", self.negation_completions)
        ):  # fmt: skip
            if texts:
                values[name] = _mean(begins_with(text, case.target_new) for text in texts)
        if self.neighbor_completions:
            pairs = zip(self.neighbor_completions, case.neighbors, strict=True)
            values["FN"] = _mean(begins_with(text, neighbor.true) for text, neighbor in pairs)
        if self.portability_completions:
            values["FH"] = _mean(
                any(contains_phrase(text, answer) for answer in question.answers)
                for text, question in zip(self.portability_completions, case.portability, strict=True)
            )
        if self.reply is not None:
            values["FC"] = float(contains_phrase(self.reply, case.target_new))
        return values

    def _drift_metrics(self) -> dict[str, float]:
        values = {"GE": self.fluency, "RS": self.consistency, "ESS": self.essence}
        if self.neighbor_divergences:
            values["KN"] = _mean(self.neighbor_divergences)
        return {name: value for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """The catalog's record. It holds the number of reference texts in place of the long texts."""
        record = asdict(self, dict_factory=lambda items: {k: v for k, v in items if k != "first_token"})
        record["case"]["references"] = len(self.case.references)
        return record | {"metrics": self.metrics()}


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean([float(value) for value in values]))
