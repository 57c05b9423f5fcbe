"""Do some seconds of a job, keep nothing, and tell from them how long the whole will take."""

import time
from contextlib import suppress
from dataclasses import replace
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
from ..specs import SPECS, CovarianceSpec, EditSpec, PreflightSpec, Spec, SweepSpec, TraceSpec
from ..worker.running import RunningJob
from .covariance import moment_of, newest
from .edit import FIRST_TOKENS, MAX_LENGTH, past_edits
from .loaded import Loaded, load
from .trace import build_corruption, read_requests
from .tracer import LocalTracer

# How long is measured; one step of a slow device may take longer.
_SECONDS = 5.0
_STEPS = 3


class _Enough(Exception):
    """Raised out of a report: enough was measured."""


def run(running: RunningJob, spec: PreflightSpec) -> dict[str, Any]:
    """Returns the seconds that the job will take and what they were told from."""
    of: Spec = SPECS[spec.of_kind](**spec.of)
    began = time.monotonic()
    loaded = load(running, spec.model, spec.of.get("revision", "base"))
    loading = time.monotonic() - began
    seconds, basis = _measured(running, loaded, of)
    return {"seconds": loading + seconds, "basis": f"{basis}; loading took {loading:.1f} s"}


def _measured(running: RunningJob, loaded: Loaded, spec: Spec) -> tuple[float, str]:
    running.report_activity(f"measuring some seconds of the {spec.kind}")
    if isinstance(spec, TraceSpec):
        return _trace(running, loaded, spec)
    if isinstance(spec, CovarianceSpec):
        return _collection(running, loaded, spec.layers, spec.texts, spec.max_tokens, spec.max_length)
    if isinstance(spec, EditSpec):
        hparams = resolve_hparams(spec, loaded.model, running.catalog.home)
        return _edits(running, loaded, spec, [hparams])
    if isinstance(spec, SweepSpec):
        return _edits(running, loaded, spec, [trial.hparams for trial in plan_trials(spec)])
    raise InputError(f"nothing is known beforehand of a job of kind {spec.kind!r}")


def _trace(running: RunningJob, loaded: Loaded, spec: TraceSpec) -> tuple[float, str]:
    with running.catalog.read() as session:
        questions = read_requests(session, spec)
    corruption, _ = build_corruption(LocalTracer(running, loaded).fit, loaded.tokenizer, spec, questions)
    settings = TraceSettings(corruption, tuple(spec.kinds), spec.window, spec.tokens)  # type: ignore[arg-type]
    began = time.monotonic()
    costs = estimate_costs(loaded.decoder, loaded.tokenizer, questions, settings)
    asking = time.monotonic() - began
    if not costs:
        return asking, f"the model knows none of the {len(questions)} facts"
    # Of middling length, one after another until it is enough.
    order = sorted(costs, key=lambda number: abs(costs[number] - sorted(costs.values())[len(costs) // 2]))
    began, worked = time.monotonic(), 0
    for number in order:
        list(trace(loaded.decoder, loaded.tokenizer, [questions[number]], settings))
        worked += costs[number]
        if time.monotonic() - began > _SECONDS:
            break
    took = time.monotonic() - began
    basis = (
        f"{order.index(number) + 1} of the {len(costs)} facts that the model knows, traced in {took:.1f} s"
    )
    return asking + took * sum(costs.values()) / worked, basis


def _collection(
    running: RunningJob, loaded: Loaded, layers: list[int], texts: str, max_tokens: int, max_length: int
) -> tuple[float, str]:
    began, read = time.monotonic(), 0.0

    def report(progress: Progress) -> None:
        nonlocal read
        read = progress.done
        if read and time.monotonic() - began > _SECONDS:
            raise _Enough

    with suppress(_Enough):
        for _ in collect(
            loaded.decoder, loaded.tokenizer, open_corpus(texts), layers,
            CollectionSettings(max_tokens, max_length), report=report,
        ):  # fmt: skip
            pass
    took = time.monotonic() - began
    return took * max_tokens / read, f"{read:,.0f} tokens read in {took:.1f} s"


def _edits(
    running: RunningJob, loaded: Loaded, spec: EditSpec | SweepSpec, settings: list[Hparams]
) -> tuple[float, str]:
    """The steps of the search or the training, which are most of an edit, as they go at the lowest layer.

    Elsewhere a step runs what lies above the layer. What is content sooner takes fewer steps: an upper bound.
    """
    method, layers = METHODS[spec.method], loaded.decoder.layers
    lowest = min(settings, key=lambda one: one.layers[-1:])
    missing = sorted(
        {
            layer
            for one in settings
            for layer in method.layers(one)
            if newest(running, loaded.model.id or 0, layer) is None
        }
    )
    contexts = sample_contexts(loaded.decoder.model, loaded.tokenizer, lowest.contexts, spec.seed)
    requests = list(map(Request.from_dict, spec.requests))
    # Some methods train on all requests at once; the others search a value for each.
    is_trained = isinstance(lowest, TrainingHparams)
    quick = lowest.with_changes(**{"num_steps" if is_trained else "v_num_grad_steps": _STEPS})
    began = time.monotonic()
    if is_trained:
        # How long a step takes does not depend on what C holds, so one that is not collected yet may be any.
        size = loaded.decoder.anatomy.key_width
        rows = {layer: newest(running, loaded.model.id or 0, layer) for layer in method.layers(quick)}
        moments = {
            layer: FactoredMoment(moment_of(running, row) if row else torch.eye(size))
            for layer, row in rows.items()
        }
        # What was written before is learnt again, which takes steps too.
        past = past_edits(running, loaded.revision)
        task: EditTask[Any] = EditTask(
            loaded.decoder, loaded.tokenizer, requests, moments, quick, contexts, running.report, past
        )
        method.write(task)
        of, each = "a training on all requests", 1
        steps = [
            count_steps(build_examples(replace(task, hparams=one)), one)
            for one in settings
            if isinstance(one, TrainingHparams)
        ]
        took = time.monotonic() - began
    else:
        ticks: list[float] = []
        task = EditTask(loaded.decoder, loaded.tokenizer, requests[:1], {}, quick, contexts, running.report)
        find_values(task, quick.layers[-1], lambda *_: ticks.append(time.monotonic()))
        # From step to step, so that what comes before the first one does not count twenty times.
        intervals = len(ticks) - 1
        between = (ticks[-1] - ticks[0]) / intervals if intervals else time.monotonic() - began
        took = _STEPS * between
        of, each = "a search", len(requests)
        steps = [one.steps for one in settings]
    heights = [layers - (one.layers or (0,))[-1] for one in settings]
    work = sum(count * height for count, height in zip(steps, heights, strict=True))
    seconds = each * took * work / (_STEPS * max(heights))
    basis = f"{_STEPS} steps of {of} at layer {(lowest.layers or (0,))[-1]} in {took:.1f} s, all steps taken"
    if missing:
        collecting, read = _collection(running, loaded, missing, spec.texts, FIRST_TOKENS, MAX_LENGTH)
        return seconds + collecting, f"{basis}; covariances to collect: {len(missing)}, {read}"
    return seconds, basis
