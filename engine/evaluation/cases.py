"""What is asked about one rewritten fact, and what was measured of it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .free import begins_with, holds
from .teacher_forced import Score


@dataclass(frozen=True)
class Neighbor:
    """A prompt about another subject, and the answer that should stay."""

    prompt: str
    true: str


@dataclass(frozen=True)
class Question:
    """A multi-hop question whose answer the rewritten fact changes; the first of `answers` is the one scored."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A text about somebody of whom the new target holds; `name` says of whom."""

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Case:
    """One rewritten fact and what to ask about it; all prompts are whole, with the subject in them."""

    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    subject: str | None = None
    negations: tuple[str, ...] = ()
    portability: tuple[Question, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()


def digest(cases: Sequence[Case]) -> str:
    """The sha256 of all that the cases ask."""
    return hashlib.sha256(json.dumps([asdict(case) for case in cases]).encode()).hexdigest()


@dataclass
class CaseResult:
    """What was measured for one case; lists run over what the case holds, and are empty where nothing was asked."""

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

    def numbers(self) -> dict[str, float]:
        """Every metric of this case alone (see engine.metrics)."""
        return self._teacher_forced() | self._free() | self._drift()

    def _teacher_forced(self) -> dict[str, float]:
        found = {"EA": float(self.new.first_choice), "TE": self.new.tokens}
        if self.true:
            found["ES"] = float(self.true.nll > self.new.nll)
            found["EM"] = float(np.exp(-self.new.nll) - np.exp(-self.true.nll))
        if self.paraphrases_new:
            found["PA"] = _mean(score.first_choice for score in self.paraphrases_new)
            found["TP"] = _mean(score.tokens for score in self.paraphrases_new)
        if self.paraphrases_new and self.paraphrases_true:
            pairs = list(zip(self.paraphrases_new, self.paraphrases_true, strict=True))
            found["PS"] = _mean(true.nll > new.nll for new, true in pairs)
            found["PM"] = _mean(np.exp(-new.nll) - np.exp(-true.nll) for new, true in pairs)
        if self.neighbors_new:
            pairs = list(zip(self.neighbors_new, self.neighbors_true, strict=True))
            found["NS"] = _mean(true.nll < new.nll for new, true in pairs)
            found["NM"] = _mean(np.exp(-true.nll) - np.exp(-new.nll) for new, true in pairs)
            found["NA"] = _mean(true.first_choice for _, true in pairs)
            found["TN"] = _mean(true.tokens for _, true in pairs)
        if self.portability:
            found["HA"] = _mean(score.first_choice for score in self.portability)
            found["TH"] = _mean(score.tokens for score in self.portability)
        if self.negations:
            found["XA"] = _mean(score.first_choice for score in self.negations)
        return found

    def _free(self) -> dict[str, float]:
        case, found = self.case, {}
        if self.completion is not None:
            found["FE"] = float(begins_with(self.completion, case.target_new))
        if self.paraphrase_completions:
            found["FP"] = _mean(begins_with(text, case.target_new) for text in self.paraphrase_completions)
        if self.neighbor_completions:
            answers = zip(self.neighbor_completions, case.neighbors, strict=True)
            found["FN"] = _mean(begins_with(text, neighbor.true) for text, neighbor in answers)
        if self.portability_completions:
            asked = zip(self.portability_completions, case.portability, strict=True)
            found["FH"] = _mean(any(holds(text, one) for one in question.answers) for text, question in asked)
        if self.negation_completions:
            found["FX"] = _mean(begins_with(text, case.target_new) for text in self.negation_completions)
        if self.reply is not None:
            found["FC"] = float(holds(self.reply, case.target_new))
        return found

    def _drift(self) -> dict[str, float]:
        found = {"GE": self.fluency, "RS": self.consistency, "ESS": self.essence}
        if self.neighbor_divergences:
            found["KN"] = _mean(self.neighbor_divergences)
        return {name: value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """As the catalog stores it: of the reference texts, which are long and in the fact set, only how many."""
        record = asdict(self)
        record["case"]["references"] = len(self.case.references)
        return record | {"metrics": self.numbers()}


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean([float(value) for value in values]))
