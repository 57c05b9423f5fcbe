"""The model of a trace's job: in this process, or on the workers of a Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...covariance.corpus import Corpus
from ...model.memory import Budget
from ...tracing.noise import Noise, fit_noise
from ...tracing.rules import NoiseRule
from ...tracing.trace import (
    FactTrace,
    OnToken,
    SkippedPrompt,
    TraceRequest,
    TraceSettings,
    estimate_costs,
    trace,
)
from ..devices import is_on_ray
from ..specs import TraceSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load

if TYPE_CHECKING:
    from .on_ray.trace import RayTracer


class LocalTracer:
    """A model to trace in this process. `report` takes the job's progress, `protocol` is for the trace's row.

    `fit`, `plan` and `trace` call the functions of engine.tracing.
    """

    def __init__(self, running: RunningJob, loaded: Loaded) -> None:
        self.model, self.revision, self.tokenizer = loaded.model, loaded.revision, loaded.tokenizer
        self.report, self.protocol = running.report, {"device": running.job.device}
        self._decoder = loaded.decoder
        # An earlier attempt of the job may have found how much the device's memory holds.
        self._budget = Budget(loaded.decoder.device, running.job.checkpoint.get("budget"))

    @property
    def budget_state(self) -> dict[str, int]:
        """For the job's checkpoint: `budget` in tokens if the device ran out of memory, otherwise empty."""
        return {"budget": self._budget.tokens} if self._budget.halvings else {}

    def fit(self, rule: NoiseRule, subjects: Sequence[str], texts: Corpus | None) -> Noise:
        return fit_noise(rule, self._decoder, self.tokenizer, subjects, texts)

    def plan(
        self, requests: Sequence[TraceRequest], settings: TraceSettings, on_batch: Callable[[int], None]
    ) -> dict[int, int]:
        return estimate_costs(self._decoder, self.tokenizer, requests, settings, on_batch)

    def trace(
        self, requests: Sequence[TraceRequest], settings: TraceSettings, finished: set[int], on_token: OnToken
    ) -> Iterator[tuple[int, FactTrace | SkippedPrompt]]:
        return trace(self._decoder, self.tokenizer, requests, settings, self._budget, on_token, finished)


@contextmanager
def open_tracer(running: RunningJob, spec: TraceSpec) -> "Iterator[LocalTracer | RayTracer]":
    """Load the model of a trace in this process, or open it on the job's Ray."""
    if not is_on_ray(running.job.device):
        yield LocalTracer(running, load(running, spec.model, spec.revision))
        return
    from .on_ray.model import open_remote_model
    from .on_ray.trace import RayTracer

    max_workers = 1 if spec.facts is None else None
    with open_remote_model(running, spec.model, spec.revision, spec.threads, "facts", max_workers) as remote:
        yield RayTracer(remote)
