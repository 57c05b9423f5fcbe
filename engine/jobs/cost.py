"""Estimate the cost of a job before it starts: memory and disk by arithmetic, time from earlier jobs.

Memory and disk are upper bounds in bytes. A token has at least one byte of text, so a text's bytes bound its tokens.
Imports no torch.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from ...prompts import fill_prompt
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Covariance, Fact, Job, Model
from ...store.errors import InputError
from ...store.facts import sets as fact_sets
from ...store.history import history
from ..edits.hparams.base import Hparams
from ..model.limits import CPU_TOKENS, GPU_TOKENS, READING_TOKENS, search_tokens
from .devices import CPU
from .settings import plan_trials, resolve_hparams
from .specs import CovarianceSpec, EditSpec, Spec, SweepSpec, TraceSpec, read_spec

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
# Per layer and token a trace stores hidden state, outputs of mixer and MLP, key and value: 5 vectors of the model's
# width at most (grouped keys are narrower).
_STORED_VECTORS = 5
# Per token a running block holds 6 vectors of the model's width and 3 of the MLP's.
_MODEL_VECTORS, _MLP_VECTORS = 6, 3
# Bytes of one JSON number in a trace's scores, and of the same cell in its estimate.
_SCORE_BYTES = 2 * 22
# Tokens of a context text with its separator, and prompts that have no context.
_CONTEXT_TOKENS, _PLAIN_ROWS = 16, 2


@dataclass(frozen=True)
class Cost:
    """Upper bounds and free space in bytes; a warning for each that exceeds the free space."""

    memory: int
    memory_free: int | None
    disk: int
    disk_free: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TimeEstimate:
    """Estimated duration of a job, and a phrase that names its source."""

    seconds: float
    basis: str


def estimate_cost(catalog: Catalog, spec: Spec, device: str) -> Cost | None:
    """Bound the memory and disk of a job; None for kinds of jobs without an estimate.

    Raises:
        store.errors.InputError: the model, the facts or the settings do not exist.
    """
    if not isinstance(spec, TraceSpec | CovarianceSpec | EditSpec | SweepSpec):
        return None
    import psutil

    with catalog.read() as session:
        model = history.find_model(session, spec.model)
        memory, disk = _bound(session, catalog, model, spec, device)
    disk_free, memory_free = shutil.disk_usage(catalog.home.root).free, None
    if device == CPU:  # only torch can read the free memory of a GPU
        memory_free = psutil.virtual_memory().available
    warnings = []
    if memory_free is not None and memory > memory_free:
        warnings.append(
            f"the job may need up to {memory / 1e9:.1f} GB of memory on {device}; "
            f"{memory_free / 1e9:.1f} GB are free"
        )
    if disk > disk_free:
        warnings.append(
            f"the job may need up to {disk / 1e9:.2f} GB in {catalog.home.root}; {disk_free / 1e9:.2f} GB are free"
        )
    return Cost(memory, memory_free, disk, disk_free, warnings)


def _bound(session: Session, catalog: Catalog, model: Model, spec: Spec, device: str) -> tuple[int, int]:
    """Upper bounds of (memory, disk)."""
    shape = _Shape.of(model)
    memory, disk = model.parameters * shape.size, 0
    if isinstance(spec, TraceSpec):
        tokens = CPU_TOKENS if device == CPU else GPU_TOKENS
        memory += tokens * (_STORED_VECTORS * shape.width * shape.size + shape.block_bytes)
        positions = sum(len(prompt.encode()) + 1 for prompt in _read_prompts(session, spec))
        disk += positions * shape.layers * len(spec.kinds) * _SCORE_BYTES
    elif isinstance(spec, CovarianceSpec):
        memory += (len(spec.layers) + 2) * shape.moment_bytes + READING_TOKENS * shape.block_bytes
        disk += 2 * shape.moment_bytes * len(spec.layers)
    elif isinstance(spec, EditSpec):
        settings = resolve_hparams(spec, model, catalog.home)
        layers = settings.layers or range(shape.layers)
        memory += _bound_edit_memory(shape, settings, spec, device)
        disk += _bound_covariance_disk(session, model, shape, settings.layers)
        disk += len(layers) * len(spec.requests) * 4 * (shape.width + shape.key_width)
    elif isinstance(spec, SweepSpec):
        trials = plan_trials(spec)
        memory += max((_bound_edit_memory(shape, one.hparams, spec, device) for one in trials), default=0)
        edited = {layer for one in trials for layer in one.hparams.layers}
        disk += _bound_covariance_disk(session, model, shape, edited)
    return memory, disk


@dataclass(frozen=True)
class _Shape:
    """Sizes of a model; `size` is the bytes of one number."""

    layers: int
    width: int
    key_width: int
    size: int

    @classmethod
    def of(cls, model: Model) -> "_Shape":
        anatomy = model.anatomy
        return cls(anatomy["layers"], anatomy["width"], anatomy["key_width"], _BYTES.get(model.dtype, 4))

    @property
    def moment_bytes(self) -> int:
        """The second moment of one layer's keys, in float64."""
        return 8 * self.key_width**2

    @property
    def block_bytes(self) -> int:
        """Memory of a running block per token."""
        return (_MODEL_VECTORS * self.width + _MLP_VECTORS * self.key_width) * self.size


def _bound_edit_memory(shape: _Shape, settings: Hparams, spec: EditSpec | SweepSpec, device: str) -> int:
    """Memory to write requests: second moments, the factor of one, float32 masters, states of the value search."""
    rows = settings.contexts + _PLAIN_ROWS
    texts = [request["prompt"] + request["subject"] + request["target_new"] for request in spec.requests]
    longest = max((len(text.encode()) + _CONTEXT_TOKENS for text in texts), default=0)
    batch = settings.max_requests or len(texts)
    tokens = min(max(search_tokens(device), rows * longest), rows * longest * batch)
    layers = settings.layers or tuple(range(shape.layers))
    blocks_above = shape.layers - min(layers)
    masters = len(layers) * 4 * shape.width * shape.key_width
    return (len(layers) + 2) * shape.moment_bytes + 2 * masters + tokens * blocks_above * shape.block_bytes


def _bound_covariance_disk(session: Session, model: Model, shape: _Shape, layers: Iterable[int]) -> int:
    """Disk of the covariances that the catalog lacks; twice their size while they are collected."""
    known = set(session.exec(select(Covariance.layer).where(Covariance.model_id == model.id)))
    return 2 * shape.moment_bytes * sum(layer not in known for layer in layers)


def _read_prompts(session: Session, spec: TraceSpec) -> list[str]:
    if spec.facts is None:
        return [spec.prompt or ""]
    # Only two columns, because a form calls this at every key press.
    fact_set = fact_sets.find_fact_set(session, spec.facts)
    rows = session.exec(select(Fact.prompt, Fact.subject).where(Fact.fact_set_id == fact_set.id))
    return [fill_prompt(prompt, subject) for prompt, subject in rows]


def estimate_time(catalog: Catalog, spec: Spec, device: str) -> TimeEstimate | None:
    """Estimate from the newest completed job with comparable settings, in proportion to the amount of work."""
    query = select(Job).where(Job.kind == spec.kind, Job.state == "done", Job.device == device)
    with catalog.read() as session:
        for job in session.exec(query.order_by(col(Job.id).desc())):
            if estimate := _scale_time(session, job, spec):
                return estimate
    return None


def _scale_time(session: Session, job: Job, spec: Spec) -> TimeEstimate | None:
    """The duration of a completed job, scaled to another one's amount of work; None if they are not comparable."""
    try:
        before = read_spec(job.kind, job.spec)
    except InputError:  # written by another version
        return None
    if job.started is None or job.ended is None or job.attempt != 1:
        return None
    if _comparable_settings(before) != _comparable_settings(spec):
        return None
    done, planned = _count_units(session, before), _count_units(session, spec)
    seconds = (job.ended - job.started).total_seconds()
    if not done or not planned or seconds <= 0:  # the clock may have been set back
        return None
    basis = f"job {job.id} took {seconds:.0f} s for {_describe_amount(before, done)}"
    return TimeEstimate(seconds * planned / done, basis)


def _comparable_settings(spec: Spec) -> Any:
    """The settings that two jobs must share so that one's time predicts the other's."""
    if isinstance(spec, TraceSpec):
        kinds, is_swapped, is_single = sorted(spec.kinds), spec.swap is not None, spec.facts is None
        return spec.model, kinds, spec.samples, spec.tokens, is_swapped, is_single
    if isinstance(spec, CovarianceSpec):
        return spec.model, spec.layers, spec.texts, spec.max_length
    if isinstance(spec, EditSpec):
        return spec.model, spec.method, spec.hparams, spec.hparams_file
    if isinstance(spec, SweepSpec):
        return spec.model, spec.method, spec.hparams, sorted(spec.grid)
    return None


def _count_units(session: Session, spec: Spec) -> float:
    """The amount of work, in units that cost about the same in comparable jobs."""
    if isinstance(spec, TraceSpec):
        return len(_read_prompts(session, spec)) / spec.shards
    if isinstance(spec, CovarianceSpec):
        return spec.max_tokens
    if isinstance(spec, EditSpec):
        return len(spec.requests)
    assert isinstance(spec, SweepSpec)
    layers = history.find_model(session, spec.model).anatomy["layers"]
    return len(spec.requests) * sum(layers - trial.last for trial in plan_trials(spec))


def _describe_amount(spec: Spec, units: float) -> str:
    if isinstance(spec, SweepSpec):
        return f"{len(plan_trials(spec))} trials of {len(spec.requests)} requests"
    unit = {"trace": "facts", "covariance": "tokens", "edit": "requests"}[spec.kind]
    return f"{units:,.0f} {unit}"
