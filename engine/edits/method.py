"""What every editing method takes and gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..decoder import Decoder
from ..delta import Delta
from ..errors import InputError
from ..hparams import Hparams
from ..progress import Report


@dataclass(frozen=True)
class Request:
    """A fact to write: `prompt` is a template with one `{}` where the subject stands."""

    subject: str
    prompt: str
    target_new: str

    def __post_init__(self) -> None:
        if self.prompt.count("{}") != 1:
            raise InputError(
                f"the prompt {self.prompt!r} must hold exactly one {{}}, where the subject stands"
            )
        if not self.subject.strip() or not self.target_new.strip():
            raise InputError(f"the subject and the target of {self.prompt!r} must not be empty")

    @property
    def text(self) -> str:
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Written:
    """What a method made: the delta, and per request what its search looked like (losses, norms)."""

    delta: Delta
    figures: list[dict[str, Any]] = field(default_factory=list)


class Method(Protocol):
    """An editing method. It reads the model and never leaves it changed."""

    name: str

    def layers(self, hparams: Hparams) -> list[int]:
        """The layers whose second moment it needs."""
        ...

    def write(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        moments: Mapping[int, Tensor],
        hparams: Hparams,
        contexts: Sequence[str],
        report: Report,
        earlier: Sequence[Request] = (),
    ) -> Written:
        """Write the requests. `moments[layer]` is C, float64 `[key_width, key_width]`; `earlier` are the facts that the
        revision's history has written before, which some methods protect."""
        ...
