"""What every editing method takes and gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from ..decoder import Decoder
from ..delta import Delta
from ..hparams import Hparams
from ..progress import Report
from .moments import Factored
from .request import Request
from .value import Kept, nothing_kept


@dataclass(frozen=True)
class Written:
    """What a method made: the delta, and per request what its search looked like (losses per step, norms)."""

    delta: Delta
    figures: list[dict[str, Any]] = field(default_factory=list)


class Method(Protocol):
    """An editing method. It reads the model and never leaves it changed.

    `batch` is how many requests it can write at once, None for any number.
    """

    name: str
    batch: int | None

    def layers(self, hparams: Hparams) -> list[int]:
        """The layers whose second moment it needs."""
        ...

    def write(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        moments: Mapping[int, Factored],
        hparams: Hparams,
        contexts: Sequence[str],
        report: Report,
        earlier: Sequence[Request] = (),
        kept: Kept = nothing_kept,
    ) -> Written:
        """Write the requests. `moments[layer]` is C, factored when first needed; `earlier` are the facts that the
        revision's history has written before, which some methods protect; `kept` are the values that an earlier
        attempt at the same requests has found."""
        ...
