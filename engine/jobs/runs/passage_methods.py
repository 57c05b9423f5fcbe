"""Baselines of a passage: other answers to its questions, with the text as context or with another edit method."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlmodel import Session, col, select

from ....passage_facts import PassageFact
from ....store.catalog.tables import Sweep, SweepTrial
from ....store.facts.passage_format import Passage
from ....store.facts.sets import facts_from_passage
from ...edits.batching import write_in_batches
from ...model.delta import Delta, concatenate
from ...passages.answering import Baseline, answer_questions
from ...passages.checks import Problem
from ...passages.proof import measure_passage_retention
from ...passages.retrieval import build_likelihood_reranker
from ..settings import baseline_edit, check_baselines
from ..specs import PassageSpec
from ..worker.running import RunningJob
from .edit import prepare
from .loaded import Loaded

# Most replies end before this. With a small context window, a reply takes at most one part in so many of it.
_MAX_NEW_TOKENS, _WINDOW_PART = 128, 4
# The check of a passage warns if the best trial of the last sweep wrote less than this share of its facts.
_MIN_SCORE = 0.9
_REQUEST_FIELDS = ("subject", "prompt", "target_new", "train_paraphrases", "eval_paraphrases")


def list_baselines(against: Sequence[str]) -> list[str]:
    """All baselines in the order in which they answer. Raises InputError for an unknown one."""
    check_baselines(against)
    return list(dict.fromkeys(("unedited", "edited", *against)))


def build_requests(facts: Sequence[PassageFact]) -> list[dict[str, Any]]:
    """The requests that write facts of a passage."""
    rows = facts_from_passage(Passage(facts[0].subject, "", tuple(facts)))
    return [{name: getattr(row, name) for name in _REQUEST_FIELDS} for row in rows]


@dataclass(frozen=True)
class BaselineRunner:
    """Answers the questions of a passage. `write_seconds` is the time that the passage's own edits took."""

    running: RunningJob
    spec: PassageSpec
    loaded: Loaded
    passage: Passage
    write_seconds: float

    def run(self, name: str) -> dict[str, Any]:
        """The answers of a baseline and its costs. For a method also the retention after each of its edits."""
        text, title = self._text, self.passage.title
        if name == "unedited":
            return self._answer(Baseline.without_context(name))
        if name == "edited":
            return self._answer(Baseline.without_context(name, self.write_seconds))
        if name == "prompt":
            return self._answer(Baseline.with_passage(text))
        if name == "retrieval":
            return self._answer(Baseline.with_retrieval(text, title))
        if name == "reranked":
            rerank = build_likelihood_reranker(self.loaded.decoder, self.loaded.tokenizer)
            return self._answer(Baseline.with_retrieval(text, title, rerank=rerank, name=name))
        begin = time.monotonic()
        deltas, retention = self._write(name)
        with self.loaded.holding(concatenate([self.loaded.delta, *deltas])):
            answers = self._answer(Baseline.without_context(name, time.monotonic() - begin))
        return answers | {"retention": retention}

    @property
    def _text(self) -> str:
        """The text of the passage, or its facts as sentences."""
        return self.passage.text or " ".join(
            f"{fact.full_prompt} {fact.object}." for fact in self.passage.facts
        )

    def _answer(self, baseline: Baseline) -> dict[str, Any]:
        loaded = self.loaded
        window = getattr(loaded.decoder.model.config, "max_position_embeddings", None)
        max_new_tokens = min(_MAX_NEW_TOKENS, window // _WINDOW_PART) if window else _MAX_NEW_TOKENS
        answers = answer_questions(
            loaded.decoder,
            loaded.tokenizer,
            self.passage.questions,
            baseline,
            max_new_tokens,
            self.running.report,
        )
        return answers.as_dict()

    def _write(self, method: str) -> tuple[list[Delta], list[dict[str, Any]]]:
        """Write the facts with another method. Nothing is saved, and the weights are restored."""
        running, loaded, facts = self.running, self.loaded, self.passage.facts
        spec = baseline_edit(self.spec, method, loaded.revision.id)
        edit = prepare(running, replace(spec, requests=build_requests(facts)), loaded)
        deltas: list[Delta] = []
        retention: list[dict[str, Any]] = []
        written = 0
        for batch, result in zip(
            edit.batches, write_in_batches(edit.method, edit.task, edit.batches), strict=True
        ):
            deltas.append(result.delta)
            written += len(batch)
            # The method writes the next batch on the revision's own weights, so they are restored here.
            with loaded.holding(concatenate([loaded.delta, *deltas])):
                retention.append(
                    measure_passage_retention(
                        loaded.decoder,
                        loaded.tokenizer,
                        facts,
                        range(written),
                        f"{method} {len(deltas)}",
                        running.report,
                    )
                )
        return deltas, retention


def check_by_sweep(session: Session, model_id: int, method: str, facts: int) -> list[Problem]:
    """A warning at the first fact if the last sweep of a method scored low, or tried fewer facts."""
    newest_first = (
        select(Sweep).where(Sweep.model_id == model_id, Sweep.method == method).order_by(col(Sweep.id).desc())
    )
    for sweep in session.exec(newest_first):
        query = select(SweepTrial).where(SweepTrial.sweep_id == sweep.id)
        trials = [trial for trial in session.exec(query) if trial.error is None]
        if not trials:
            continue
        best = max(trials, key=lambda trial: float(trial.score["value"]))
        score = best.score
        if float(score["value"]) >= _MIN_SCORE and facts <= int(score["count"]):
            return []
        message = (
            f"{facts} facts to write. In the last sweep of {method} (sweep {sweep.id}) the best settings, layer "
            f"{', '.join(map(str, best.layers))}, scored {float(score['value']):.2f} ({float(score['low']):.2f} to "
            f"{float(score['high']):.2f}) by {', '.join(score['of'])} on {int(score['count'])} facts. Write fewer at "
            "once, or sweep with as many."
        )
        return [Problem(0, "warning", "sweep", message)]
    return []
