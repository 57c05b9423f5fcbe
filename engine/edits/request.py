"""A fact to write."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..tokens import Located, locate_span

# The published prompt whose prediction must not drift.
ESSENCE = "{} is a"


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

    def located(self, tokenizer: PreTrainedTokenizerBase, context: str = "{}") -> Located:
        """The prompt as it stands in a context (a template with one `{}` for it), and the subject's tokens there."""
        return locate_subject_in(tokenizer, context.replace("{}", self.prompt), self.subject)


def locate_subject_in(tokenizer: PreTrainedTokenizerBase, template: str, subject: str) -> Located:
    """A template with `{}` filled in with the subject, and the subject's tokens there; braces of its own are text."""
    start = template.index("{}")
    return locate_span(tokenizer, template.replace("{}", subject), start, start + len(subject))
