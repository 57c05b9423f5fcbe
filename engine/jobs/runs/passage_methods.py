"""The ways to answer a passage's questions: the model as it was and as it is, with the text at hand, or taught it
otherwise."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from ....store.catalog.tables import Sweep, SweepTrial
from ....store.facts.passage_format import Passage
from ...covariance.moments import FactoredMoment
from ...edits import METHODS
from ...edits.batching import split_batches, write_in_batches
from ...edits.method import EditTask, Request
from ...model.delta import Delta, concatenate
from ...model.generation import sample_contexts
from ...passages.answering import Baseline, answer_questions
from ...passages.checks import Problem
from ...passages.facts import PassageFact, PassageQuestion
from ...passages.proof import EditRetention, measure_edit_retention
from ...passages.retrieval import build_likelihood_reranker
from ..settings import baseline_edit, check_baselines, resolve_hparams
from ..specs import PassageSpec
from ..worker.running import RunningJob
from .covariance import moment_of
from .edit import moments_at, past_edits
from .loaded import Loaded

# Nothing shall end abruptly; what ends by itself takes no longer for it. Of a small window this share at most.
_LONGEST, _SHARE = 128, 4


def ways(against: Sequence[str]) -> list[str]:
    """All ways, in the order in which they are asked. Raises store.errors.InputError for one that is none."""
    check_baselines(against)
    return list(dict.fromkeys(("unedited", "edited", *against)))


def answers_of(
    way: str,
    running: RunningJob,
    spec: PassageSpec,
    loaded: Loaded,
    passage: Passage,
    write_seconds: float,
) -> dict[str, Any]:
    """What one way answers, with its costs; of a method also how the facts stood after each of its edits."""
    facts = [PassageFact(**asdict(fact)) for fact in passage.facts]
    questions = [PassageQuestion(**asdict(one)) for one in passage.questions]
    text = passage.text or " ".join(f"{fact.full_prompt} {fact.object}." for fact in facts)

    window = getattr(loaded.decoder.model.config, "max_position_embeddings", None)
    longest = min(_LONGEST, window // _SHARE) if window else _LONGEST

    def asked(one: Baseline) -> dict[str, Any]:
        return answer_questions(
            loaded.decoder, loaded.tokenizer, questions, one, longest, running.report
        ).as_dict()

    if way == "unedited":
        return asked(Baseline.without_context(way))
    if way == "edited":
        return asked(Baseline.without_context(way, write_seconds))
    if way == "prompt":
        return asked(Baseline.with_passage(text))
    if way == "retrieval":
        return asked(Baseline.with_retrieval(text, passage.title))
    if way == "reranked":
        likelihood = build_likelihood_reranker(loaded.decoder, loaded.tokenizer)
        return asked(Baseline.with_retrieval(text, passage.title, rerank=likelihood, name=way))
    begin = time.monotonic()
    deltas, retention = _written(way, running, spec, loaded, facts)
    with loaded.holding(concatenate([loaded.delta, *deltas])):
        answers = asked(Baseline.without_context(way, time.monotonic() - begin))
    return answers | {"retention": [one.as_dict() for one in retention]}


def _written(
    way: str, running: RunningJob, spec: PassageSpec, loaded: Loaded, facts: Sequence[PassageFact]
) -> tuple[list[Delta], list[EditRetention]]:
    """The facts by another method, one edit after another if it writes one at a time, and none of it kept."""
    method = METHODS[way]
    edit = baseline_edit(spec, way, loaded.revision.id)
    hparams = resolve_hparams(edit, loaded.model, running.catalog.home)
    moments = {
        layer: FactoredMoment(partial(moment_of, running, row))
        for layer, row in moments_at(running, edit, loaded, method.layers(hparams)).items()
    }
    requests = [Request(fact.subject, fact.prompt, fact.object, fact.train_paraphrases) for fact in facts]
    contexts = sample_contexts(loaded.decoder.model, loaded.tokenizer, hparams.contexts, spec.seed)
    task = EditTask(
        loaded.decoder, loaded.tokenizer, requests, moments, hparams, contexts, running.report,
        past_edits(running, loaded.revision), seed=spec.seed,
    )  # fmt: skip
    deltas: list[Delta] = []
    retention: list[EditRetention] = []
    done = 0
    parts = split_batches(hparams, requests, None)
    for part, written in zip(parts, write_in_batches(method, task, parts), strict=True):
        deltas.append(written.delta)
        done += len(part)
        # The method writes the next part on the revision's own weights.
        with loaded.holding(concatenate([loaded.delta, *deltas])):
            retention.append(
                measure_edit_retention(
                    loaded.decoder,
                    loaded.tokenizer,
                    facts,
                    range(done),
                    f"{way} {len(deltas)}",
                    running.report,
                )
            )
    return deltas, retention


# Of fewer facts than this share a person would want to know before ten minutes of writing.
_MOST = 0.9


def check_by_sweep(session: Session, model_id: int, method: str, facts: int) -> list[Problem]:
    """A warning, at the first fact, where the last sweep of this method says that not all will hold, or tried fewer."""
    newest = (
        select(Sweep).where(Sweep.model_id == model_id, Sweep.method == method).order_by(col(Sweep.id).desc())
    )
    for sweep in session.exec(newest):
        trials = session.exec(select(SweepTrial).where(SweepTrial.sweep_id == sweep.id)).all()
        wrote = [trial for trial in trials if trial.error is None]
        if not wrote:
            continue
        best = max(wrote, key=lambda trial: float(trial.score["value"]))
        value, count = float(best.score["value"]), int(best.score["count"])
        if value >= _MOST and facts <= count:
            return []
        layers = ", ".join(map(str, best.layers))
        message = (
            f"{facts} facts are to be written; in the last sweep of {method} (sweep {sweep.id}) the best settings, "
            f"layer {layers}, came to {value:.2f} ({float(best.score['low']):.2f} to {float(best.score['high']):.2f}) "
            f"by {', '.join(best.score['of'])} on {count}: write fewer at once, or sweep with as many"
        )
        return [Problem(0, "warning", "sweep", message)]
    return []
