"""The interface of an editing method: a request, the task of a method, its result, and checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..covariance.moments import FactoredMoment
from ..errors import InputError
from ..model.decoder import Decoder
from ..model.delta import Delta
from ..model.tokens import LocatedPrompt, locate_span
from ..progress import Report
from .hparams.base import Hparams

# The prompt whose next-token distribution a method preserves (Meng et al. 2022, section 3.1).
ESSENCE_PROMPT = "{} is a"


@dataclass(frozen=True)
class Request:
    """A fact to write. `prompt` is a template with one `{}` in place of the subject.

    `train_paraphrases` are further templates that the target completes. Methods that train weights use them. Methods
    that search a value use only `prompt`.
    """

    subject: str
    prompt: str
    target_new: str
    train_paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for prompt in (self.prompt, *self.train_paraphrases):
            if prompt.count("{}") != 1:
                raise InputError(f"prompt {prompt!r} must contain {{}} exactly once, in place of the subject")
        if not self.subject.strip() or not self.target_new.strip():
            raise InputError(f"the subject and the target of {self.prompt!r} must not be empty")

    @property
    def text(self) -> str:
        return self.prompt.replace("{}", self.subject)

    def expand_paraphrases(self) -> list["Request"]:
        """One request per template: the prompt first, then each training paraphrase."""
        templates = (self.prompt, *self.train_paraphrases)
        return [replace(self, prompt=template, train_paraphrases=()) for template in templates]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Request":
        """Build a request from a record of the catalog (see store.facts.sets.REQUEST_FIELDS)."""
        paraphrases = record.get("train_paraphrases") or record.get("wordings") or ()
        return cls(record["subject"], record["prompt"], record["target_new"], tuple(paraphrases))

    def locate(self, tokenizer: PreTrainedTokenizerBase, context: str = "{}") -> LocatedPrompt:
        """Tokenize the prompt inside a context (a template with one `{}`) and find the subject's tokens."""
        return locate_subject(tokenizer, context.replace("{}", self.prompt), self.subject)


def locate_subject(tokenizer: PreTrainedTokenizerBase, template: str, subject: str) -> LocatedPrompt:
    """Tokenize a template with its first `{}` replaced by the subject, and find the subject's tokens."""
    start = template.index("{}")
    return locate_span(tokenizer, template.replace("{}", subject), start, start + len(subject))


@dataclass(frozen=True)
class EditResult:
    """The delta that a method computed, and figures per request (losses per step, norms)."""

    delta: Delta
    figures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class PastEdit:
    """An edit that the loaded revision contains. `delta()` reads its weights when they are first needed."""

    method: str
    requests: Sequence[Request]
    delta: Callable[[], Delta]


@dataclass(frozen=True)
class Value:
    """The result of a value search for one request, float32.

    `keys` `[contexts, key_width]` are inputs of the edited matrix (the bare prompt's first). `outputs`
    `[contexts, width]` are the states at the searched place before the edit. v* is `initial + delta`.
    """

    keys: Tensor
    outputs: Tensor
    delta: Tensor
    losses: list[dict[str, float]]

    @property
    def initial(self) -> Tensor:
        """The state of the bare prompt before the edit, `[width]`."""
        return self.outputs[0]

    def figures(self) -> dict[str, Any]:
        """The losses per step and the norms of the search."""
        return {
            "losses": self.losses,
            "delta_norm": self.delta.norm().item(),
            "initial_norm": self.initial.norm().item(),
        }


class Checkpoint:
    """The progress of one batch of requests, so that an interrupted job resumes. This base class stores nothing."""

    def load_values(self, number: int) -> list[Value]:
        """Return the values of the search batch that begins after `number` requests, or an empty list."""
        return []

    def save_values(self, number: int, values: list[Value]) -> None:
        """Store the values of the search batch that begins after `number` requests."""

    def load_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and metadata of the latest state of a training, or None."""
        return None

    def save_training(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Store a state of a training and replace the previous one."""


NO_CHECKPOINT = Checkpoint()


H_co = TypeVar("H_co", bound=Hparams, covariant=True)
H_contra = TypeVar("H_contra", bound=Hparams, contravariant=True)


@dataclass(frozen=True)
class EditTask(Generic[H_co]):
    """The input of a method: model, requests, settings, second moments, earlier edits.

    `moments[layer]` is C, factored on first use. `contexts` are templates with `{}` for the prompt, the bare `{}`
    first. `past` are the edits that the revision contains, oldest first.
    """

    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    requests: Sequence[Request]
    moments: Mapping[int, FactoredMoment]
    hparams: H_co
    contexts: Sequence[str]
    report: Report
    past: Sequence[PastEdit] = ()
    checkpoint: Checkpoint = NO_CHECKPOINT
    seed: int = 1

    @property
    def past_requests(self) -> list[Request]:
        """The facts of all earlier edits."""
        return [request for edit in self.past for request in edit.requests]


class Method(Protocol[H_contra]):
    """An editing method. It reads the model and leaves its weights unchanged."""

    name: str

    def layers(self, hparams: H_contra) -> list[int]:
        """Return the layers whose second moment the method reads."""
        ...

    def write(self, task: EditTask[H_contra]) -> EditResult:
        """Compute the delta that writes the task's requests."""
        ...
