"""Trace a prompt or a set of facts; each finished fact is a row, so a resumed job traces only the rest."""

import time
from typing import Any

from sqlmodel import Session, select

from ....store import facts as fact_sets
from ....store import history
from ....store.tables import AverageEffect, Trace, TraceResult
from ...effects import average_effects
from ...errors import InputError
from ...noise import NoiseRule
from ...progress import Progress
from ...trace import FactTrace, TraceSettings, WrongAnswer, trace_fact
from ..running import Running
from ..specs import TraceSpec
from .loaded import Loaded, load

# How often a running job renews its average effects.
_AVERAGE_SECONDS = 10.0

PROTOCOL = {
    "noise": "numpy RandomState(seed).randn(samples, subject tokens, d_model) x level on the embedding's output",
    "score": "softmax at the last position, mean over the noise samples",
    "answer": "the clean run's first choice; a fact counts if that is the first token of the expected answer",
}


def run(running: Running, spec: TraceSpec) -> dict[str, Any]:
    """Returns the trace's id."""
    loaded = load(running, spec.model, spec.revision)
    with running.catalog.read() as session:
        items = _items(session, spec)
    rule = NoiseRule.parse(spec.noise)
    level = rule.level(loaded.decoder, loaded.tokenizer, [subject for _, subject, _ in items])
    settings = TraceSettings(
        noise=level,
        kinds=tuple(spec.kinds),  # type: ignore[arg-type]
        samples=spec.samples,
        window=spec.window,
        seed=spec.seed,
        tokens=spec.tokens,  # type: ignore[arg-type]
    )
    trace_id, finished = _trace_row(running, spec, loaded, level)
    averaged = time.monotonic()
    for position, (prompt, subject, expected) in enumerate(items):
        if position in finished:
            continue

        def report(progress: Progress, position: int = position, subject: str = subject) -> None:
            if len(items) == 1:
                running.report(progress)
                return
            part = progress.done / (progress.total or 1)
            running.report(Progress(position + part, len(items), "facts", f"{subject}: {progress.activity}"))

        result = TraceResult(
            trace_id=trace_id, position=position, prompt=prompt, subject=subject, expected=expected
        )
        try:
            traced = trace_fact(loaded.decoder, loaded.tokenizer, prompt, subject, settings, expected, report)
            _fill(result, traced, settings)
        except InputError as error:
            result.skipped = str(error)
        if result.skipped and spec.facts is None:
            with running.catalog.write() as session:  # nothing was traced, so no empty trace stays behind
                session.delete(session.get_one(Trace, trace_id))
                running.checkpoint(session, {})
            raise InputError(f"{prompt!r}: {result.skipped}")
        with running.catalog.write() as session:
            session.add(result)
            if time.monotonic() - averaged > _AVERAGE_SECONDS:
                averaged = time.monotonic()
                _average(session, trace_id)
            running.checkpoint(session, {"trace": trace_id})
    with running.catalog.write() as session:
        _average(session, trace_id)
        return running.commit(session, {"trace": trace_id})


def _items(session: Session, spec: TraceSpec) -> list[tuple[str, str, str | None]]:
    """(prompt, subject, expected answer) of what is to be traced."""
    if spec.facts is None:
        if spec.prompt is None or spec.subject is None:
            raise InputError("a trace needs a prompt and its subject, or a set of facts")
        return [(spec.prompt, spec.subject, spec.expected)]
    found = fact_sets.facts_of(session, fact_sets.find_fact_set(session, spec.facts))
    return [(fact.prompt.replace("{}", fact.subject), fact.subject, fact.target_true) for fact in found]


def _trace_row(running: Running, spec: TraceSpec, loaded: Loaded, level: float) -> tuple[int, set[int]]:
    """The trace's id and the positions that are done; a first run makes the row."""
    known = running.job.checkpoint.get("trace")
    with running.catalog.write() as session:
        if known is not None:
            done = session.exec(select(TraceResult.position).where(TraceResult.trace_id == known)).all()
            return known, set(done)
        fact_set = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
        trace = Trace(
            model_id=history.find_model(session, spec.model).id or 0,
            revision=loaded.revision.id,
            fact_set_id=fact_set.id if fact_set else None,
            kinds=list(spec.kinds),
            noise=spec.noise,
            noise_level=level,
            samples=spec.samples,
            window=spec.window,
            seed=spec.seed,
            tokens=spec.tokens,
            protocol=PROTOCOL | {"dtype": loaded.model.dtype, "device": running.job.device},
        )
        session.add(trace)
        session.flush()
        assert trace.id is not None
        running.checkpoint(session, {"trace": trace.id})
        return trace.id, set()


def _fill(result: TraceResult, traced: FactTrace | WrongAnswer, settings: TraceSettings) -> None:
    result.tokens, result.answer = traced.tokens, traced.answer
    result.subject_begin, result.subject_end = traced.subject_range
    if isinstance(traced, WrongAnswer):
        result.high, result.skipped = traced.probability, traced.reason
        return
    result.high, result.low = traced.high, traced.low
    result.scores = {
        kind: {"window": 1 if kind == "hidden" else settings.window, "scores": scores}
        for kind, scores in traced.scores.items()
    }


def _average(session: Session, trace_id: int) -> None:
    """Renew the trace's average effects over what is traced so far."""
    session.flush()
    results = session.exec(
        select(TraceResult).where(TraceResult.trace_id == trace_id, TraceResult.skipped == None)  # noqa: E711
    ).all()
    for old in session.exec(select(AverageEffect).where(AverageEffect.trace_id == trace_id)):
        session.delete(old)
    session.flush()
    for effect in average_effects(results):
        session.add(AverageEffect(trace_id=trace_id, **effect.as_dict()))
