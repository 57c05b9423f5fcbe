"""A fact to write."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.tokens import LocatedPrompt, locate_span

# The published prompt whose prediction must not drift.
ESSENCE = "{} is a"


@dataclass(frozen=True)
class Request:
    """A fact to write: `prompt` is a template with one `{}` where the subject stands.

    `wordings` are other such templates that the target continues; the methods that train use them, the others read
    only the prompt.
    """

    subject: str
    prompt: str
    target_new: str
    train_paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for prompt in (self.prompt, *self.train_paraphrases):
            if prompt.count("{}") != 1:
                raise InputError(
                    f"the prompt {prompt!r} must hold exactly one {{}}, where the subject stands"
                )
        if not self.subject.strip() or not self.target_new.strip():
            raise InputError(f"the subject and the target of {self.prompt!r} must not be empty")

    @property
    def text(self) -> str:
        return self.prompt.replace("{}", self.subject)

    def worded(self) -> list["Request"]:
        """The same fact once in each of its wordings, the prompt first."""
        return [
            replace(self, prompt=prompt, train_paraphrases=())
            for prompt in (self.prompt, *self.train_paraphrases)
        ]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Request":
        """A request as the catalog has it; see store.facts.REQUEST_FIELDS."""
        return cls(
            record["subject"],
            record["prompt"],
            record["target_new"],
            tuple(record.get("train_paraphrases") or ()),
        )

    def located(self, tokenizer: PreTrainedTokenizerBase, context: str = "{}") -> LocatedPrompt:
        """The prompt as it stands in a context (a template with one `{}` for it), and the subject's tokens there."""
        return locate_subject_in(tokenizer, context.replace("{}", self.prompt), self.subject)


def locate_subject_in(tokenizer: PreTrainedTokenizerBase, template: str, subject: str) -> LocatedPrompt:
    """A template with `{}` filled in with the subject, and the subject's tokens there; braces of its own are text."""
    start = template.index("{}")
    return locate_span(tokenizer, template.replace("{}", subject), start, start + len(subject))
