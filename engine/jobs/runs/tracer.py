"""The model that a trace's job works with: in this process, or on the workers of a Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from transformers import PreTrainedTokenizerBase

from ....store.catalog.tables import Model, Revision
from ...covariance.corpus import Corpus
from ...model.memory import Budget
from ...tracing.noise import Noise, fit_noise
from ...tracing.rules import NoiseRule
from ...tracing.trace import FactTrace, SkippedPrompt, TraceRequest, TraceSettings, estimate_costs, trace
from ..devices import is_on_ray
from ..specs import TraceSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load

if TYPE_CHECKING:
    from .trace import Work


class Tracer(Protocol):
    """A model that is traced, wherever its weights are."""

    @property
    def model(self) -> Model: ...
    @property
    def revision(self) -> Revision: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def fit(self, rule: NoiseRule, subjects: list[str], texts: Corpus | None) -> Noise:
        """See engine.noise."""

    def plan(
        self, asked: list[TraceRequest], settings: TraceSettings, on_batch: Callable[[int], None]
    ) -> dict[int, int]:
        """See engine.trace."""

    def trace(
        self, work: "Work", mine: list[int], settings: TraceSettings, finished: set[int]
    ) -> Iterator[tuple[int, FactTrace | SkippedPrompt]]:
        """See engine.trace; of the positions `mine`, telling the job its progress."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What a trace's row notes of where it was made."""


@dataclass(frozen=True)
class Here:
    """A model in this process."""

    running: RunningJob
    loaded: Loaded

    @property
    def model(self) -> Model:
        return self.loaded.model

    @property
    def revision(self) -> Revision:
        return self.loaded.revision

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.loaded.tokenizer

    @property
    def protocol(self) -> dict[str, Any]:
        return {"device": self.running.job.device}

    def fit(self, rule: NoiseRule, subjects: list[str], texts: Corpus | None) -> Noise:
        return fit_noise(rule, self.loaded.decoder, self.tokenizer, subjects, texts)

    def plan(
        self, asked: list[TraceRequest], settings: TraceSettings, on_batch: Callable[[int], None]
    ) -> dict[int, int]:
        return estimate_costs(self.loaded.decoder, self.tokenizer, asked, settings, on_batch)

    def trace(
        self, work: "Work", mine: list[int], settings: TraceSettings, finished: set[int]
    ) -> Iterator[tuple[int, FactTrace | SkippedPrompt]]:
        # What a device was found to bear before the job was stopped.
        work.budget = Budget(self.loaded.decoder.device, self.running.job.checkpoint.get("budget"))
        asked = [work.questions[position] for position in mine]
        on_token = work.following(mine, finished)
        return trace(
            self.loaded.decoder,
            self.tokenizer,
            asked,
            settings,
            work.budget,
            on_token=on_token,
            finished=finished,
        )


@contextmanager
def tracer_of(running: RunningJob, spec: TraceSpec) -> Iterator[Tracer]:
    """The model of a trace, in this process or on the job's Ray."""
    if not is_on_ray(running.job.device):
        yield Here(running, load(running, spec.model, spec.revision))
        return
    from .on_ray.model import opened
    from .on_ray.trace import Away

    most = 1 if spec.facts is None else None
    with opened(running, spec.model, spec.revision, spec.threads, "facts", most) as remote:
        yield Away(remote)
