"""What a job will cost here, before it starts: memory and disk by arithmetic, time from what was measured before.

All sizes are bytes and upper bounds: a token is at least a byte of text, so a text's bytes bound its tokens. Loads no
torch.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Covariance, Fact, Job, Model
from ...store.facts import sets as fact_sets
from ...store.history import history
from ..edits.hparams.base import Hparams
from ..model.limits import CPU_TOKENS, GPU_TOKENS, READING_TOKENS, search_tokens
from .devices import CPU
from .settings import plan_trials, resolve_hparams
from .specs import SPECS, CovarianceSpec, EditSpec, Spec, SweepSpec, TraceSpec

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
# States, both parts' outputs, keys and values that a run keeps of each layer, in widths (grouped keys are fewer).
_KEPT = 5
# What a block holds while it runs: six vectors of the model's width and three of the MLP's a token.
_WIDE, _INNER = 6, 3
# A number of a score as JSON, of a trace's table and its estimate.
_SCORE = 2 * 22
# Tokens of a context text, its joining words included, and the rows beside the contexts' own.
_CONTEXT, _ROWS_BESIDE = 16, 2


@dataclass(frozen=True)
class Cost:
    """Upper bounds in bytes, what is free, and a sentence for each that is not enough."""

    memory: int
    memory_free: int | None
    disk: int
    disk_free: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TimeEstimate:
    """How long a job will take, and what that was told from."""

    seconds: float
    basis: str


def estimate_cost(catalog: Catalog, spec: Spec, device: str) -> Cost | None:
    """What a job will cost on a device; None for kinds of job of which nothing is known beforehand.

    Raises:
        store.errors.InputError: no such model, facts or settings.
    """
    if not isinstance(spec, TraceSpec | CovarianceSpec | EditSpec | SweepSpec):
        return None
    with catalog.read() as session:
        model = history.find_model(session, spec.model)
        memory, disk = _needs(session, catalog, model, spec, device)
    free, memory_free = shutil.disk_usage(catalog.home.root).free, _memory_free(device)
    warnings = []
    if memory_free is not None and memory > memory_free:
        warnings.append(
            f"up to {memory / 1e9:.1f} GB of memory may be needed on {device}, {memory_free / 1e9:.1f} GB are free"
        )
    if disk > free:
        warnings.append(
            f"up to {disk / 1e9:.2f} GB are needed in {catalog.home.root}, {free / 1e9:.2f} GB are free"
        )
    return Cost(memory, memory_free, disk, free, warnings)


def _memory_free(device: str) -> int | None:
    """Of the CPU; what a GPU has free is not known without torch."""
    import psutil

    return int(psutil.virtual_memory().available) if device == CPU else None


def _needs(session: Session, catalog: Catalog, model: Model, spec: Spec, device: str) -> tuple[int, int]:
    """(memory, disk) at most."""
    shape = _Shape.of(model)
    memory, disk = model.parameters * shape.size, 0
    if isinstance(spec, TraceSpec):
        tokens = CPU_TOKENS if device == CPU else GPU_TOKENS
        memory += tokens * (_KEPT * shape.width * shape.size + shape.running)
        positions = sum(len(prompt.encode()) + 1 for prompt in _prompts(session, spec))
        disk += positions * shape.layers * len(spec.kinds) * _SCORE
    elif isinstance(spec, CovarianceSpec):
        memory += len(spec.layers) * shape.moment + 2 * shape.moment + READING_TOKENS * shape.running
        disk += 2 * shape.moment * len(spec.layers)
    elif isinstance(spec, EditSpec):
        settings = resolve_hparams(spec, model, catalog.home)
        memory += _writing(shape, settings, spec, device)
        disk += _collecting(session, model, shape, settings.layers)
        disk += (
            len(settings.layers or range(shape.layers))
            * len(spec.requests)
            * 4
            * (shape.width + shape.key_width)
        )
    elif isinstance(spec, SweepSpec):
        trials = plan_trials(spec)
        memory += max((_writing(shape, trial.hparams, spec, device) for trial in trials), default=0)
        disk += _collecting(session, model, shape, {layer for one in trials for layer in one.hparams.layers})
    return memory, disk


@dataclass(frozen=True)
class _Shape:
    """A model's sizes; `size` is the bytes of one number."""

    layers: int
    width: int
    key_width: int
    size: int

    @classmethod
    def of(cls, model: Model) -> "_Shape":
        anatomy = model.anatomy
        size = _BYTES.get(model.dtype, 4)
        return cls(anatomy["layers"], anatomy["width"], anatomy["key_width"], size)

    @property
    def moment(self) -> int:
        """C of one layer in float64."""
        return 8 * self.key_width**2

    @property
    def running(self) -> int:
        """What a block holds of one token while it runs."""
        return (_WIDE * self.width + _INNER * self.key_width) * self.size


def _writing(shape: _Shape, settings: Hparams, spec: EditSpec | SweepSpec, device: str) -> int:
    """Memory of writing requests: the moments and a factor of one, float32 masters, and the search's own states."""
    rows = settings.contexts + _ROWS_BESIDE
    texts = [request["prompt"] + request["subject"] + request["target_new"] for request in spec.requests]
    longest = max((len(text.encode()) + _CONTEXT for text in texts), default=0)
    together = settings.max_requests or len(texts)
    tokens = min(max(search_tokens(device), rows * longest), rows * longest * together)
    layers = settings.layers or tuple(range(shape.layers))
    above = shape.layers - min(layers)
    masters = len(layers) * 4 * shape.width * shape.key_width
    return (len(layers) + 2) * shape.moment + 2 * masters + tokens * above * shape.running


def _collecting(session: Session, model: Model, shape: _Shape, layers: Iterable[int]) -> int:
    """Disk of the covariances that are not there yet, twice while they are collected."""
    query = select(Covariance.layer).where(Covariance.model_id == model.id)
    there = set(session.exec(query))
    return 2 * shape.moment * sum(layer not in there for layer in layers)


def _prompts(session: Session, spec: TraceSpec) -> list[str]:
    if spec.facts is None:
        return [spec.prompt or ""]
    # Two columns only: a form asks this at every key.
    found = fact_sets.find_fact_set(session, spec.facts)
    rows = session.exec(select(Fact.prompt, Fact.subject).where(Fact.fact_set_id == found.id))
    return [prompt.replace("{}", subject) for prompt, subject in rows]


def estimate_time(catalog: Catalog, spec: Spec, device: str) -> TimeEstimate | None:
    """The time it takes if it goes as the newest job of like settings went, by how much each has to do."""
    with catalog.read() as session:
        return _as_before(session, spec, device)


def _as_before(session: Session, spec: Spec, device: str) -> TimeEstimate | None:
    query = select(Job).where(Job.kind == spec.kind, Job.state == "done", Job.device == device)
    for job in session.exec(query.order_by(col(Job.id).desc())):
        before = SPECS[job.kind](**job.spec)
        if job.started is None or job.ended is None or job.attempt != 1 or _alike(before) != _alike(spec):
            continue
        done, now = _units(session, before), _units(session, spec)
        took = (job.ended - job.started).total_seconds()
        if done and now and took > 0:  # the clock may have been set back meanwhile
            return TimeEstimate(
                took * now / done, f"as job {job.id} went: {took:.0f} s for {_told(before, done)}"
            )
    return None


def _alike(spec: Spec) -> Any:
    """What two jobs must share for one's time to tell the other's."""
    if isinstance(spec, TraceSpec):
        return (
            spec.model,
            sorted(spec.kinds),
            spec.samples,
            spec.tokens,
            spec.swap is None,
            spec.facts is None,
        )
    if isinstance(spec, CovarianceSpec):
        return spec.model, spec.layers, spec.texts, spec.max_length
    if isinstance(spec, EditSpec):
        return spec.model, spec.method, spec.hparams, spec.hparams_file
    if isinstance(spec, SweepSpec):
        return spec.model, spec.method, spec.hparams, sorted(spec.tries)
    return None


def _units(session: Session, spec: Spec) -> float:
    """How much there is to do, in units that cost about the same between jobs that are alike."""
    if isinstance(spec, TraceSpec):
        return len(_prompts(session, spec)) / spec.shards
    if isinstance(spec, CovarianceSpec):
        return spec.max_tokens
    if isinstance(spec, EditSpec):
        return len(spec.requests)
    assert isinstance(spec, SweepSpec)
    layers = history.find_model(session, spec.model).anatomy["layers"]
    return len(spec.requests) * sum(layers - trial.last for trial in plan_trials(spec))


def _told(spec: Spec, units: float) -> str:
    """Its amount in words."""
    if isinstance(spec, SweepSpec):
        return f"{len(plan_trials(spec))} trials of {len(spec.requests)} requests"
    unit = {"trace": "facts", "covariance": "tokens", "edit": "requests"}[spec.kind]
    return f"{units:,.0f} {unit}"
