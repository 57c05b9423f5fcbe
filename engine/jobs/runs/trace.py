"""Trace a prompt or a set of facts. Each finished fact is a row, so a resumed job traces only the others.

The row of a fact exists while it is traced, with its estimate and the scores so far, so that the app can show them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sqlmodel import Session, col, select
from transformers import PreTrainedTokenizerBase

from ....prompts import fill_prompt
from ....store.catalog.tables import AverageEffect, Trace, TraceResult
from ....store.effects import average_effects
from ....store.facts import sets as fact_sets
from ...covariance.corpus import Corpus, open_corpus
from ...errors import InputError
from ...progress import Progress
from ...tracing.corruption import Corruption, NoiseCorruption, SwapCorruption, find_swaps, swap_subject
from ...tracing.noise import Noise
from ...tracing.rules import NoiseRule
from ...tracing.trace import FactTrace, SkippedPrompt, TraceRequest, TraceSettings
from ..specs import TraceSpec
from ..worker.running import RunningJob
from .tracer import LocalTracer, open_tracer

if TYPE_CHECKING:
    from .on_ray.trace import RayTracer

    Tracer = LocalTracer | RayTracer

# How often a running job updates the average effects, and the rows of the facts that it traces.
_AVERAGE_SECONDS = 10.0
_PARTIAL_SECONDS = 1.0

_PROTOCOL = {
    "score": "softmax at the last position, mean over the corrupted samples",
    "noise": "numpy RandomState(seed) on the embeddings of the subject's tokens, the same draws for every fact",
    "answer": "the clean run's first choice; a fact counts if that is the first token of the expected answer",
    "estimate": "attribution patching: (clean - corrupted) . gradient, summed over a window's blocks",
}


def run(running: RunningJob, spec: TraceSpec) -> dict[str, Any]:
    """Trace the facts of the job's shard. Returns the trace's id."""
    with running.catalog.read() as session:
        requests = read_requests(session, spec)
    with open_tracer(running, spec) as tracer:
        corruption, level = build_corruption(tracer.fit, tracer.tokenizer, spec, requests)
        settings = TraceSettings(corruption, tuple(spec.kinds), spec.window, spec.tokens)  # type: ignore[arg-type]
        trace_id = _trace_row(running, spec, tracer, corruption, level)
        progress = _TraceProgress(running, tracer, spec, trace_id, requests)
        positions = progress.select_positions(corruption)
        selected = [requests[position] for position in positions]
        if spec.facts is not None:
            costs = tracer.plan(selected, settings, progress.report_plan)
            progress.costs = {positions[number]: cost for number, cost in costs.items()}
        finished = {number for number, position in enumerate(positions) if position in progress.finished}
        for number, result in tracer.trace(selected, settings, finished, progress.on_token):
            progress.save(positions[number], result)
        with running.catalog.write() as session:
            _update_averages(session, trace_id)
            return running.commit_result(session, {"trace": trace_id})


def read_requests(session: Session, spec: TraceSpec) -> list[TraceRequest]:
    """The prompt of the spec, or the facts of its set."""
    if spec.facts is None:
        if spec.prompt is None or spec.subject is None:
            raise InputError("A trace needs a prompt and its subject, or a set of facts.")
        return [TraceRequest(spec.prompt, spec.subject, spec.expected)]
    facts = fact_sets.list_facts(session, fact_sets.find_fact_set(session, spec.facts))
    return [
        TraceRequest(fill_prompt(fact.prompt, fact.subject), fact.subject, fact.target_true) for fact in facts
    ]


def build_corruption(
    fit: Callable[[NoiseRule, Sequence[str], Corpus | None], Noise],
    tokenizer: PreTrainedTokenizerBase,
    spec: TraceSpec,
    requests: list[TraceRequest],
) -> tuple[Corruption, float | None]:
    """The corruption of a spec. For Gaussian noise also its level, which `fit` finds."""
    if spec.swap == "auto":
        prompts = [(request.prompt, request.subject, request.expected) for request in requests]
        return SwapCorruption(find_swaps(tokenizer, prompts)), None
    if spec.swap is not None:
        swapped = {
            (one.prompt, one.subject): swap_subject(tokenizer, one.prompt, one.subject, spec.swap)
            for one in requests
        }
        return SwapCorruption(swapped), None
    rule = NoiseRule.parse(spec.noise)
    texts = open_corpus(spec.texts) if rule.needs_texts else None
    noise = fit(rule, [request.subject for request in requests], texts)
    return NoiseCorruption(noise, spec.samples, spec.seed, spec.replace), noise.level


def _trace_row(
    running: RunningJob, spec: TraceSpec, tracer: "Tracer", corruption: Corruption, level: float | None
) -> int:
    """The id of the trace that the job continues, or of a new one."""
    known = running.job.checkpoint.get("trace") or spec.extends
    with running.catalog.write() as session:
        if known is not None:
            row = session.get_one(Trace, known)
        else:
            row = _new_row(session, spec, tracer, corruption.samples)
        row.noise_level = level
        session.flush()
        assert row.id is not None
        running.checkpoint(session, running.job.checkpoint | {"trace": row.id})
        return row.id


def _new_row(session: Session, spec: TraceSpec, tracer: "Tracer", samples: int) -> Trace:
    """A trace without results, added to the session."""
    fact_set = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
    needs_texts = spec.swap is None and NoiseRule.parse(spec.noise).needs_texts
    row = Trace(
        model_id=tracer.model.id or 0,
        revision=tracer.revision.id,
        fact_set_id=fact_set.id if fact_set else None,
        kinds=list(spec.kinds),
        noise="swap" if spec.swap else spec.noise,
        replace=spec.replace,
        swap=spec.swap,
        samples=samples,
        window=spec.window,
        seed=spec.seed,
        tokens=spec.tokens,
        protocol=_PROTOCOL
        | ({"texts": spec.texts} if needs_texts else {})
        | {"dtype": tracer.model.dtype}
        | tracer.protocol,
    )
    session.add(row)
    return row


@dataclass
class _TraceProgress:
    """The results that the job has saved, and its progress.

    `positions` are the facts of this shard that can be corrupted. `finished` are positions with a finished row. `costs`
    is the work of each position that the model knows, see engine.tracing.trace.estimate_costs.
    """

    running: RunningJob
    tracer: "Tracer"
    spec: TraceSpec
    trace_id: int
    requests: list[TraceRequest]
    positions: list[int] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    costs: dict[int, int] = field(default_factory=dict)
    _averaged: float = 0.0
    _shown: float = 0.0

    def select_positions(self, corruption: Corruption) -> list[int]:
        """Find and return the positions to trace. Facts that cannot be corrupted are saved as skipped."""
        with self.running.catalog.read() as session:
            query = select(TraceResult.position).where(
                TraceResult.trace_id == self.trace_id, col(TraceResult.is_complete)
            )
            saved = set(session.exec(query))
        shard = range(self.spec.shard, len(self.requests), self.spec.shards)
        self.finished = saved.intersection(shard)
        for position in shard:
            request = self.requests[position]
            swapped = corruption.swapped if isinstance(corruption, SwapCorruption) else None
            if swapped is None or (request.prompt, request.subject) in swapped:
                self.positions.append(position)
            elif position not in self.finished:
                self.save(position, SkippedPrompt("no other subject of the set takes as many tokens"))
        return self.positions

    def report_plan(self, done: int) -> None:
        """Report how many facts the model was asked for."""
        self.tracer.report(Progress(done, len(self.positions), "answers", "checking which facts it knows"))

    def on_token(self, numbers: Sequence[int], traces: Sequence[FactTrace], share: float) -> None:
        """Report the progress of a batch of `positions[number]`, and save its traces so far once a second.

        Facts that the model does not know are not counted. A batch elsewhere comes with no numbers and traces.
        """
        detail = traces[0].located.subject if traces else ""
        if len(traces) > 1:
            detail += f" and {len(traces) - 1} more"
        positions = [self.positions[number] for number in numbers]
        self.tracer.report(self._progress(positions, share, detail))
        if traces and time.monotonic() - self._shown > _PARTIAL_SECONDS:
            self._shown = time.monotonic()
            unfinished = [
                pair for pair in zip(positions, traces, strict=True) if pair[0] not in self.finished
            ]
            with self.running.catalog.write() as session:
                for position, result in unfinished:
                    _fill(self._row(session, position), result, self.spec, finished=False)

    def _progress(self, batch: list[int], share: float, detail: str) -> Progress:
        """The progress with `share` of a batch done. Of a resumed batch some facts may be finished."""
        if self.spec.facts is None:
            return Progress(100 * share, 100, "%", "tracing", detail)
        current = [position for position in batch if position not in self.finished]
        done = sum(position in self.finished for position in self.costs) + share * len(current)
        total = sum(self.costs.values())
        work: float = sum(cost for position, cost in self.costs.items() if position in self.finished)
        work += share * sum(self.costs.get(position, 0) for position in current)
        work_share = min(1.0, work / total) if total else None
        return Progress(done, len(self.costs), "facts", "tracing", detail, work_share)

    def save(self, position: int, result: FactTrace | SkippedPrompt) -> None:
        """Write a finished fact.

        Raises:
            InputError: the trace's only prompt was skipped. The empty trace is deleted.
        """
        if isinstance(result, SkippedPrompt) and self.spec.facts is None:
            with self.running.catalog.write() as session:
                session.delete(session.get_one(Trace, self.trace_id))
                self.running.checkpoint(session, {})
            raise InputError(f"{self.requests[position].prompt!r}: {result.reason}")
        self.finished.add(position)
        if isinstance(result, SkippedPrompt):
            self.costs.pop(position, None)
        with self.running.catalog.write() as session:
            _fill(self._row(session, position), result, self.spec, finished=True)
            if time.monotonic() - self._averaged > _AVERAGE_SECONDS:
                self._averaged = time.monotonic()
                _update_averages(session, self.trace_id)
            state = {"trace": self.trace_id} | self.tracer.budget_state
            self.running.checkpoint(session, self.running.job.checkpoint | state)

    def _row(self, session: Session, position: int) -> TraceResult:
        """The row of a fact, or a new one."""
        query = select(TraceResult).where(
            TraceResult.trace_id == self.trace_id, TraceResult.position == position
        )
        row = session.exec(query).one_or_none()
        if row is None:
            request = self.requests[position]
            row = TraceResult(
                trace_id=self.trace_id,
                position=position,
                prompt=request.prompt,
                subject=request.subject,
                expected=request.expected,
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


def _update_averages(session: Session, trace_id: int) -> None:
    """Replace the trace's average effects by those of all finished facts."""
    session.flush()
    traced = select(TraceResult).where(
        TraceResult.trace_id == trace_id, col(TraceResult.is_complete), col(TraceResult.skip_reason).is_(None)
    )
    # The bootstrap of an interval depends on the order of the facts, which must not be the order of completion.
    results = session.exec(traced.order_by(col(TraceResult.position))).all()
    for old in session.exec(select(AverageEffect).where(AverageEffect.trace_id == trace_id)):
        session.delete(old)
    session.flush()
    for effect in average_effects(results):
        session.add(AverageEffect(trace_id=trace_id, **asdict(effect)))
