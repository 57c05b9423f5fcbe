"""What every editing method takes and gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from ..covariance.moments import FactoredMoment
from ..model.decoder import Decoder
from ..model.delta import Delta
from ..progress import Report
from .checkpoint_protocol import Kept, nothing_kept
from .hparams import Hparams
from .request import Request


@dataclass(frozen=True)
class Written:
    """What a method made: the delta, and per request what its search looked like (losses per step, norms)."""

    delta: Delta
    figures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class PastEdit:
    """An edit that the model holds: its method, what it wrote, and how its delta is had."""

    method: str
    requests: Sequence[Request]
    delta: Callable[[], Delta]


@dataclass(frozen=True)
class Task:
    """What a method is given: the model, the requests, and all that decides how they are written.

    `moments[layer]` is C, factored when first needed; `contexts` are templates with `{}` for the prompt, the bare `{}`
    first; `past` are the edits that the revision holds, oldest first, whose facts some methods protect and others learn
    again with the new ones; `kept` is what an earlier attempt at the same requests has found.
    """

    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    requests: Sequence[Request]
    moments: Mapping[int, FactoredMoment]
    hparams: Hparams
    contexts: Sequence[str]
    report: Report
    past: Sequence[PastEdit] = ()
    kept: Kept = nothing_kept
    seed: int = 1

    @property
    def earlier(self) -> list[Request]:
        """The facts that were written before."""
        return [request for edit in self.past for request in edit.requests]


class Method(Protocol):
    """An editing method. It reads the model and never leaves it changed.

    `batch` is how many requests it can write at once, None for any number.
    """

    name: str
    batch: int | None

    def layers(self, hparams: Hparams) -> list[int]:
        """The layers whose second moment it needs."""
        ...

    def write(self, task: Task) -> Written:
        """Write the task's requests."""
        ...
