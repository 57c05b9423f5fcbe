"""Measure a few seconds of a job and estimate from them how long it takes. Saves nothing."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ...covariance.collect import CollectionSettings, collect
from ...covariance.corpus import open_corpus
from ...covariance.moments import FactoredMoment
from ...edits import METHODS
from ...edits.hparams.training import TrainingHparams
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


# The seconds that a job takes, and the measurement as text.
Estimate = tuple[float, str]


def run(running: RunningJob, spec: PreflightSpec) -> dict[str, Any]:
    """Returns the estimated seconds of the spec's job and the measurement behind them."""
    measured: Spec = read_spec(spec.job_kind, spec.job_spec)
    begin = time.monotonic()
    loaded = load(running, spec.model, spec.job_spec.get("revision", "base"))
    loading = time.monotonic() - begin
    running.report_activity("measuring a few seconds", f"{measured.kind} job")
    if isinstance(measured, TraceSpec):
        seconds, basis = _estimate_trace(running, loaded, measured)
    elif isinstance(measured, CovarianceSpec):
        seconds, basis = _estimate_collection(loaded, measured)
    elif isinstance(measured, EditSpec):
        hparams = resolve_hparams(measured, loaded.model, running.catalog.home)
        seconds, basis = _estimate_edits(running, loaded, measured, [hparams])
    elif isinstance(measured, SweepSpec):
        trials = plan_trials(measured)
        seconds, basis = _estimate_edits(running, loaded, measured, [trial.hparams for trial in trials])
    else:
        raise InputError(f"The time of a job of kind {measured.kind!r} cannot be estimated.")
    return {"seconds": loading + seconds, "basis": f"{basis}; loading took {loading:.1f} s"}


def _estimate_trace(running: RunningJob, loaded: Loaded, spec: TraceSpec) -> Estimate:
    with running.catalog.read() as session:
        requests = read_requests(session, spec)
    corruption, _ = build_corruption(LocalTracer(running, loaded).fit, loaded.tokenizer, spec, requests)
    settings = TraceSettings(corruption, tuple(spec.kinds), spec.window, spec.tokens)  # type: ignore[arg-type]
    begin = time.monotonic()
    costs = estimate_costs(loaded.decoder, loaded.tokenizer, requests, settings)
    planning = time.monotonic() - begin
    if not costs:
        return planning, f"the model knows none of the {len(requests)} facts"
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
    return planning + took * sum(costs.values()) / work, basis


def _estimate_collection(loaded: Loaded, spec: CovarianceSpec) -> Estimate:
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
    return took * spec.max_tokens / read, f"{read:,.0f} tokens read in {took:.1f} s"


def _estimate_edits(
    running: RunningJob, loaded: Loaded, spec: EditSpec | SweepSpec, settings: Sequence[Any]
) -> Estimate:
    """Estimate one edit per entry of `settings`, from steps of the search or training at the lowest layer.

    A step at another layer is proportional to the number of blocks above it. A search may converge in fewer steps, so
    this is an upper bound.
    """
    lowest, method = min(settings, key=lambda one: one.layers[-1:]), METHODS[spec.method]
    rows = {
        layer: find_newest(running, loaded.model.id or 0, layer)
        for layer in sorted({layer for one in settings for layer in method.layers(one)})
    }
    is_training = isinstance(lowest, TrainingHparams)
    few = lowest.with_changes(**{"num_steps" if is_training else "v_num_grad_steps": _STEPS})
    # The time of a step does not depend on the numbers in C, so a missing one may be any.
    unit = torch.eye(loaded.decoder.anatomy.key_width)
    task: EditTask[Any] = EditTask(
        loaded.decoder,
        loaded.tokenizer,
        list(map(Request.from_dict, spec.requests)),
        {i: factored_moment(running, row) if row else FactoredMoment(unit) for i, row in rows.items()},
        few,
        sample_contexts(loaded.decoder.model, loaded.tokenizer, few.contexts, spec.seed),
        running.report,
        load_past_edits(running, loaded.revision),
    )
    layer = (lowest.layers or (0,))[-1]
    if is_training:
        begin = time.monotonic()
        method.write(task)
        took, name, repeats = time.monotonic() - begin, "a training on all requests", 1
        # A training also rehearses facts of past edits.
        steps = [count_steps(build_examples(replace(task, hparams=one)), one) for one in settings]
    else:
        took, name, repeats = _time_search(task, layer), "a search", len(spec.requests)
        steps = [one.steps for one in settings]
    heights = [loaded.decoder.layers - (one.layers or (0,))[-1] for one in settings]
    work = sum(count * height for count, height in zip(steps, heights, strict=True))
    seconds = repeats * took * work / (_STEPS * max(heights))
    basis = f"{_STEPS} steps of {name} at layer {layer} in {took:.1f} s, times the largest number of steps"
    if missing := [layer for layer, row in rows.items() if row is None]:
        more, read = _estimate_collection(loaded, CovarianceSpec(spec.model, missing, spec.texts))
        return seconds + more, f"{basis}; covariances to collect: {len(missing)}, {read}"
    return seconds, basis


def _time_search(task: EditTask[Any], layer: int) -> float:
    """The seconds of `_STEPS` steps of the search for the first request."""
    begin, ticks = time.monotonic(), list[float]()
    find_values(replace(task, requests=task.requests[:1]), layer, lambda *_: ticks.append(time.monotonic()))
    # Only the intervals between steps: the preparation before the first step happens once per search.
    intervals = len(ticks) - 1
    return _STEPS * ((ticks[-1] - ticks[0]) / intervals if intervals else time.monotonic() - begin)
