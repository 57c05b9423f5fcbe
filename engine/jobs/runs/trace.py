"""Trace a prompt or a set of facts; each finished fact is a row, so a resumed job traces only the rest.

A fact that is being traced has its row already, with the estimate and the scores so far: whoever watches sees the map
turn exact.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select
from transformers import PreTrainedTokenizerBase

from ....store.catalog.tables import AverageEffect, Trace, TraceResult
from ....store.effects import average_effects
from ....store.facts import sets as fact_sets
from ....store.history import history
from ...covariance.corpus import Corpus, open_corpus
from ...errors import InputError
from ...model.memory import Budget
from ...progress import Progress
from ...tracing.corruption import Corruption, NoiseCorruption, SwapCorruption, find_swaps, swap_subject
from ...tracing.noise import Noise
from ...tracing.rules import NoiseRule
from ...tracing.trace import FactTrace, OnToken, SkippedPrompt, TraceRequest, TraceSettings
from ..specs import TraceSpec
from ..worker.running import RunningJob
from .tracer import Tracer, tracer_of

# How often a running job renews its average effects, and the rows of the facts that it is at.
_AVERAGE_SECONDS = 10.0
_PARTIAL_SECONDS = 1.0

_PROTOCOL = {
    "score": "softmax at the last position, mean over the corrupted samples",
    "noise": "numpy RandomState(seed) on the embeddings of the subject's tokens, the same draws for every fact",
    "answer": "the clean run's first choice; a fact counts if that is the first token of the expected answer",
    "estimate": "attribution patching: (clean - corrupted) . gradient, summed over a window's blocks",
}


def run(running: RunningJob, spec: TraceSpec) -> dict[str, Any]:
    """Returns the trace's id."""
    with tracer_of(running, spec) as tracer:
        return _traced(running, spec, tracer)


def _traced(running: RunningJob, spec: TraceSpec, tracer: Tracer) -> dict[str, Any]:
    with running.catalog.read() as session:
        questions = questions_of(session, spec)
    corruption, level = corruption_of(tracer.fit, tracer.tokenizer, spec, questions)
    settings = TraceSettings(
        corruption,
        kinds=tuple(spec.kinds),  # type: ignore[arg-type]
        window=spec.window,
        tokens=spec.tokens,  # type: ignore[arg-type]
    )
    trace_id = _trace_row(running, spec, tracer, corruption, level)
    work = Work(running, trace_id, spec, questions)
    mine, finished = work.share(corruption)
    if spec.facts is not None:
        asked = [questions[position] for position in mine]
        costs = tracer.plan(asked, settings, work.asking(len(asked)))
        work.costs = {mine[number]: cost for number, cost in costs.items()}
    for number, result in tracer.trace(work, mine, settings, finished):
        work.save(mine[number], result)
    with running.catalog.write() as session:
        _average(session, trace_id)
        return running.commit_result(session, {"trace": trace_id})


def questions_of(session: Session, spec: TraceSpec) -> list[TraceRequest]:
    if spec.facts is None:
        if spec.prompt is None or spec.subject is None:
            raise InputError("a trace needs a prompt and its subject, or a set of facts")
        return [TraceRequest(spec.prompt, spec.subject, spec.expected)]
    found = fact_sets.list_facts(session, fact_sets.find_fact_set(session, spec.facts))
    return [
        TraceRequest(fact.prompt.replace("{}", fact.subject), fact.subject, fact.target_true)
        for fact in found
    ]


def corruption_of(
    fit: Callable[[NoiseRule, list[str], Corpus | None], Noise],
    tokenizer: PreTrainedTokenizerBase,
    spec: TraceSpec,
    questions: list[TraceRequest],
) -> tuple[Corruption, float | None]:
    """The corruption and, where it has one number, the level of its noise, which `fit` finds."""
    if spec.swap is not None:
        if spec.swap == "auto":
            among = [(question.prompt, question.subject, question.expected) for question in questions]
            return SwapCorruption(find_swaps(tokenizer, among)), None
        pairs = {
            (q.prompt, q.subject): swap_subject(tokenizer, q.prompt, q.subject, spec.swap) for q in questions
        }
        return SwapCorruption(pairs), None
    rule = NoiseRule.parse(spec.noise)
    texts = open_corpus(spec.texts) if rule.needs_texts else None
    noise = fit(rule, [question.subject for question in questions], texts)
    return NoiseCorruption(noise, spec.samples, spec.seed, spec.replace), noise.level


def _trace_row(
    running: RunningJob, spec: TraceSpec, tracer: Tracer, corruption: Corruption, level: float | None
) -> int:
    """The trace's id: the one that the job goes on with, or a new row's."""
    known = running.job.checkpoint.get("trace") or spec.trace
    with running.catalog.write() as session:
        if known is not None:
            session.get_one(Trace, known).noise_level = level
            running.checkpoint(session, running.job.checkpoint | {"trace": known})
            return int(known)
        row = new_row(session, spec, tracer.revision.id)
        row.noise_level = level
        row.samples = corruption.samples
        row.protocol = row.protocol | {"dtype": tracer.model.dtype} | tracer.protocol
        session.flush()
        assert row.id is not None
        running.checkpoint(session, running.job.checkpoint | {"trace": row.id})
        return row.id


def new_row(session: Session, spec: TraceSpec, revision: str) -> Trace:
    """A trace without results, added to the session."""
    fact_set = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
    row = Trace(
        model_id=history.find_model(session, spec.model).id or 0,
        revision=revision,
        fact_set_id=fact_set.id if fact_set else None,
        kinds=list(spec.kinds),
        noise="swap" if spec.swap else spec.noise,
        replace=spec.replace,
        swap=spec.swap,
        samples=spec.samples,
        window=spec.window,
        seed=spec.seed,
        tokens=spec.tokens,
        protocol=_PROTOCOL
        | ({"texts": spec.texts} if not spec.swap and NoiseRule.parse(spec.noise).needs_texts else {}),
    )
    session.add(row)
    return row


@dataclass
class Work:
    """The rows of one trace as they fill. `costs` has the work of each position that will be traced, see `plan`."""

    running: RunningJob
    trace_id: int
    spec: TraceSpec
    questions: list[TraceRequest]
    # The budget of a model in this process; workers elsewhere have their own.
    budget: Budget | None = None
    costs: dict[int, int] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)
    _averaged: float = 0.0
    _shown: float = 0.0

    def share(self, corruption: Corruption) -> tuple[list[int], set[int]]:
        """Positions of this shard that can be corrupted, and the numbers among them that are finished.

        The others are skipped here.
        """
        with self.running.catalog.read() as session:
            query = select(TraceResult.position).where(
                TraceResult.trace_id == self.trace_id, col(TraceResult.is_complete)
            )
            finished = set(session.exec(query))
        mine = list(range(self.spec.shard, len(self.questions), self.spec.shards))
        self._ended = finished.intersection(mine)
        if isinstance(corruption, SwapCorruption):
            asked = {position: self.questions[position] for position in mine}
            without = [
                p
                for p, question in asked.items()
                if (question.prompt, question.subject) not in corruption.swapped
            ]
            for position in without:
                if position not in finished:
                    self.save(position, SkippedPrompt("no other subject of the set takes as many tokens"))
            mine = [position for position in mine if position not in without]
        return mine, {number for number, position in enumerate(mine) if position in finished}

    def asking(self, total: int) -> Callable[[int], None]:
        """What `plan` calls as the model is asked for its first choices."""
        return lambda done: self.running.report(
            Progress(done, total, "answers", "asking which facts it knows")
        )

    def following(self, mine: list[int], finished: set[int]) -> OnToken:
        """What `trace` calls as tokens get done: progress, and now and then the rows so far.

        Counted are the facts that the model knows; the others are passed over at once.
        """

        def on_token(numbers: list[int], traces: list[FactTrace], share: float) -> None:
            about = traces[0].located.subject + (f" and {len(traces) - 1} more" if len(traces) > 1 else "")
            if self.spec.facts is None:
                self.running.report(Progress(100 * share, 100, "%", about))
            else:
                positions = [mine[number] for number in numbers]
                self.running.report(self._progress(positions, share, about))
            if time.monotonic() - self._shown > _PARTIAL_SECONDS:
                self._shown = time.monotonic()
                with self.running.catalog.write() as session:
                    for number, result in zip(numbers, traces, strict=True):
                        if number not in finished:
                            _fill(self._row(session, mine[number]), result, self.spec, finished=False)

        return on_token

    def between(self, about: str) -> Progress:
        """Progress with nothing under way that this process knows of."""
        if self.spec.facts is None:
            return Progress(0, 100, "%", about)
        return self._progress([], 0.0, about)

    def _progress(self, at: list[int], share: float, about: str) -> Progress:
        """Progress with `share` of the batch `at` done; of a resumed batch some may have been finished before."""
        now = [position for position in at if position not in self._ended]
        done = sum(position in self._ended for position in self.costs) + share * len(now)
        whole = sum(self.costs.values())
        worked: float = sum(cost for position, cost in self.costs.items() if position in self._ended)
        worked += share * sum(self.costs.get(position, 0) for position in now)
        return Progress(done, len(self.costs), "facts", about, min(1.0, worked / whole) if whole else None)

    def save(self, position: int, result: FactTrace | SkippedPrompt) -> None:
        """Write a finished fact.

        Raises:
            InputError: the only prompt of the trace was not traced; the empty trace is taken away.
        """
        if isinstance(result, SkippedPrompt) and self.spec.facts is None:
            with self.running.catalog.write() as session:
                session.delete(session.get_one(Trace, self.trace_id))
                self.running.checkpoint(session, {})
            raise InputError(f"{self.questions[position].prompt!r}: {result.reason}")
        self._ended.add(position)
        if isinstance(result, SkippedPrompt):
            self.costs.pop(position, None)
        with self.running.catalog.write() as session:
            _fill(self._row(session, position), result, self.spec, finished=True)
            if time.monotonic() - self._averaged > _AVERAGE_SECONDS:
                self._averaged = time.monotonic()
                _average(session, self.trace_id)
            borne = {"budget": self.budget.tokens} if self.budget and self.budget.halvings else {}
            self.running.checkpoint(session, self.running.job.checkpoint | {"trace": self.trace_id} | borne)

    def _row(self, session: Session, position: int) -> TraceResult:
        query = select(TraceResult).where(
            TraceResult.trace_id == self.trace_id, TraceResult.position == position
        )
        row = session.exec(query).one_or_none()
        if row is None:
            question = self.questions[position]
            row = TraceResult(
                trace_id=self.trace_id,
                position=position,
                prompt=question.prompt,
                subject=question.subject,
                expected=question.expected,
            )
            session.add(row)
        return row


def _fill(row: TraceResult, result: FactTrace | SkippedPrompt, spec: TraceSpec, *, finished: bool) -> None:
    row.is_complete, row.answer, row.high = finished, result.answer, result.high
    if result.located is not None:
        row.tokens, row.token_ids = result.located.tokens, result.located.ids
        row.subject_begin, row.subject_end = result.located.begin, result.located.end
    if isinstance(result, SkippedPrompt):
        row.skip_reason = result.reason
        return
    row.low = result.low
    row.estimate = {str(kind): table for kind, table in result.estimate.items()}
    row.scores = {
        kind: {
            "window": spec.window if kind in ("mlp", "attn") else 1,
            "scores": [list(line) for line in scores],
        }
        for kind, scores in result.scores.items()
    }


def _average(session: Session, trace_id: int) -> None:
    """Renew the trace's average effects over what is traced so far."""
    session.flush()
    traced = select(TraceResult).where(
        TraceResult.trace_id == trace_id, col(TraceResult.is_complete), col(TraceResult.skip_reason).is_(None)
    )
    # Which facts an interval draws depends on their order, so that must not be the order in which they were done.
    results = session.exec(traced.order_by(col(TraceResult.position))).all()
    for old in session.exec(select(AverageEffect).where(AverageEffect.trace_id == trace_id)):
        session.delete(old)
    session.flush()
    for effect in average_effects(results):
        session.add(AverageEffect(trace_id=trace_id, **effect.as_dict()))
