"""Measure a few seconds of a job and estimate from them how long it takes. Saves nothing."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...covariance.collect import CollectionSettings, collect
from ...covariance.corpus import open_corpus
from ...covariance.moments import FactoredMoment
from ...edits import METHODS
from ...edits.hparams.base import Hparams, TrainingHparams
from ...edits.method import EditTask, Request
from ...edits.training import count_steps
from ...edits.training_examples import build_examples
from ...edits.value_search import find_values
from ...errors import InputError
from ...model.generation import sample_contexts
from ...progress import Progress
from ...tracing.trace import TraceSettings, estimate_costs, trace
from ..settings import plan_trials, resolve_hparams
from ..specs import CovarianceSpec, EditSpec, PreflightSpec, Spec, SweepSpec, TraceSpec, read_spec
from ..worker.running import RunningJob
from .covariance import factored_moment, find_newest
from .edit import load_past_edits
from .loaded import Loaded, load
from .trace import build_corruption, read_requests
from .tracer import LocalTracer

# How long is measured. One step on a slow device may take longer.
_SECONDS = 5.0
_STEPS = 3


class _Enough(Exception):
    """Raised by a report when enough was measured."""


@dataclass(frozen=True)
class _Estimate:
    """The seconds that a job takes, and the measurement as text."""

    seconds: float
    basis: str


def run(running: RunningJob, spec: PreflightSpec) -> dict[str, Any]:
    """Returns the estimated seconds of the spec's job and the measurement behind them."""
    measured: Spec = read_spec(spec.job_kind, spec.job_spec)
    begin = time.monotonic()
    loaded = load(running, spec.model, spec.job_spec.get("revision", "base"))
    loading = time.monotonic() - begin
    running.report_activity(f"measuring a few seconds of the {measured.kind} job")
    estimate = _estimate(running, loaded, measured)
    return {
        "seconds": loading + estimate.seconds,
        "basis": f"{estimate.basis}; loading took {loading:.1f} s",
    }


def _estimate(running: RunningJob, loaded: Loaded, spec: Spec) -> _Estimate:
    if isinstance(spec, TraceSpec):
        return _estimate_trace(running, loaded, spec)
    if isinstance(spec, CovarianceSpec):
        return _estimate_collection(loaded, spec)
    if isinstance(spec, EditSpec):
        hparams = resolve_hparams(spec, loaded.model, running.catalog.home)
        return _estimate_edits(running, loaded, spec, [hparams])
    if isinstance(spec, SweepSpec):
        return _estimate_edits(running, loaded, spec, [trial.hparams for trial in plan_trials(spec)])
    raise InputError(f"The time of a job of kind {spec.kind!r} cannot be estimated.")


def _estimate_trace(running: RunningJob, loaded: Loaded, spec: TraceSpec) -> _Estimate:
    with running.catalog.read() as session:
        requests = read_requests(session, spec)
    corruption, _ = build_corruption(LocalTracer(running, loaded).fit, loaded.tokenizer, spec, requests)
    settings = TraceSettings(corruption, tuple(spec.kinds), spec.window, spec.tokens)  # type: ignore[arg-type]
    begin = time.monotonic()
    costs = estimate_costs(loaded.decoder, loaded.tokenizer, requests, settings)
    planning = time.monotonic() - begin
    if not costs:
        return _Estimate(planning, f"the model knows none of the {len(requests)} facts")
    # Facts of median cost first, one after another.
    median = sorted(costs.values())[len(costs) // 2]
    order = sorted(costs, key=lambda number: abs(costs[number] - median))
    begin, work = time.monotonic(), 0
    for number in order:
        list(trace(loaded.decoder, loaded.tokenizer, [requests[number]], settings))
        work += costs[number]
        if time.monotonic() - begin > _SECONDS:
            break
    took = time.monotonic() - begin
    traced = order.index(number) + 1
    basis = f"{traced} of the {len(costs)} facts that the model knows, traced in {took:.1f} s"
    return _Estimate(planning + took * sum(costs.values()) / work, basis)


def _estimate_collection(loaded: Loaded, spec: CovarianceSpec) -> _Estimate:
    begin, read = time.monotonic(), 0.0

    def report(progress: Progress) -> None:
        nonlocal read
        read = progress.done
        if read and time.monotonic() - begin > _SECONDS:
            raise _Enough

    settings = CollectionSettings(spec.max_tokens, spec.max_length)
    corpus = open_corpus(spec.texts)
    with suppress(_Enough):
        for _ in collect(loaded.decoder, loaded.tokenizer, corpus, spec.layers, settings, report=report):
            pass
    took = time.monotonic() - begin
    return _Estimate(took * spec.max_tokens / read, f"{read:,.0f} tokens read in {took:.1f} s")


def _estimate_edits(
    running: RunningJob, loaded: Loaded, spec: EditSpec | SweepSpec, settings: Sequence[Hparams]
) -> _Estimate:
    """Estimate one edit per entry of `settings`, from steps of the search or training at the lowest layer.

    A step at another layer is proportional to the number of blocks above it. A search may converge in fewer steps, so
    this is an upper bound.
    """
    lowest = min(settings, key=lambda one: one.layers[-1:])
    if isinstance(lowest, TrainingHparams):
        took, steps = _time_training(running, loaded, spec, lowest, settings)
        name, repeats = "a training on all requests", 1
    else:
        took, steps = _time_search(running, loaded, spec, lowest), [one.steps for one in settings]
        name, repeats = "a search", len(spec.requests)
    heights = [loaded.decoder.layers - (one.layers or (0,))[-1] for one in settings]
    work = sum(count * height for count, height in zip(steps, heights, strict=True))
    seconds = repeats * took * work / (_STEPS * max(heights))
    layer = (lowest.layers or (0,))[-1]
    basis = f"{_STEPS} steps of {name} at layer {layer} in {took:.1f} s, times the largest number of steps"
    needed = {layer for one in settings for layer in METHODS[spec.method].layers(one)}
    missing = [layer for layer in sorted(needed) if find_newest(running, loaded.model.id or 0, layer) is None]
    if not missing:
        return _Estimate(seconds, basis)
    collection = _estimate_collection(loaded, CovarianceSpec(spec.model, missing, spec.texts))
    return _Estimate(
        seconds + collection.seconds, f"{basis}; covariances to collect: {len(missing)}, {collection.basis}"
    )


def _build_task(
    running: RunningJob,
    loaded: Loaded,
    spec: EditSpec | SweepSpec,
    hparams: Hparams,
    moments: dict[int, FactoredMoment],
) -> EditTask[Any]:
    return EditTask(
        loaded.decoder,
        loaded.tokenizer,
        list(map(Request.from_dict, spec.requests)),
        moments,
        hparams,
        sample_contexts(loaded.decoder.model, loaded.tokenizer, hparams.contexts, spec.seed),
        running.report,
        load_past_edits(running, loaded.revision),
    )


def _time_training(
    running: RunningJob,
    loaded: Loaded,
    spec: EditSpec | SweepSpec,
    lowest: Hparams,
    settings: Sequence[Hparams],
) -> tuple[float, list[int]]:
    """The seconds of `_STEPS` steps, and the steps of each training. Rehearsed facts of past edits count too."""
    method, few = METHODS[spec.method], lowest.with_changes(num_steps=_STEPS)
    # The time of a step does not depend on the numbers in C, so a missing one may be any.
    rows = {layer: find_newest(running, loaded.model.id or 0, layer) for layer in method.layers(few)}
    unit = torch.eye(loaded.decoder.anatomy.key_width)
    moments = {
        layer: factored_moment(running, row) if row else FactoredMoment(unit) for layer, row in rows.items()
    }
    task = _build_task(running, loaded, spec, few, moments)
    begin = time.monotonic()
    method.write(task)
    took = time.monotonic() - begin
    steps = [
        count_steps(build_examples(replace(task, hparams=one)), one)
        for one in settings
        if isinstance(one, TrainingHparams)
    ]
    return took, steps


def _time_search(running: RunningJob, loaded: Loaded, spec: EditSpec | SweepSpec, lowest: Hparams) -> float:
    """The seconds of `_STEPS` steps of the search for the first request."""
    few = lowest.with_changes(v_num_grad_steps=_STEPS)
    task = _build_task(running, loaded, spec, few, {})
    begin, ticks = time.monotonic(), list[float]()
    first = replace(task, requests=task.requests[:1])
    find_values(first, few.layers[-1], lambda *_: ticks.append(time.monotonic()))
    # Only the intervals between steps: the preparation before the first step happens once per search.
    intervals = len(ticks) - 1
    return _STEPS * ((ticks[-1] - ticks[0]) / intervals if intervals else time.monotonic() - begin)
