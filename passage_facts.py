"""The facts and questions of a passage, which the engine and the store share. Each is checked when it is built."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InputError
from .prompts import SLOT, fill_prompt, has_other_braces

_MAX_SHOWN = 60
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class PassageFact:
    """A fact of a passage.

    `prompt` is a template with one `{}` in place of the subject. The object, without a leading space, continues it
    and each paraphrase. `train_paraphrases` are for training, `eval_paraphrases` for evaluation only. Raises InputError
    for values that a facts file cannot hold.
    """

    subject: str
    prompt: str
    object: str
    train_paraphrases: tuple[str, ...] = ()
    eval_paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_words(self.subject, "the subject")
        check_words(self.object, "the object")
        earlier: list[str] = []
        for template in (self.prompt, *self.train_paraphrases, *self.eval_paraphrases):
            check_template(template, self.subject)
            check_new_template(template, earlier)
            earlier.append(template)

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return self.fill(self.prompt)

    def fill(self, template: str) -> str:
        """A template with the subject in place of `{}`."""
        return fill_prompt(template, self.subject)


@dataclass(frozen=True)
class PassageQuestion:
    """A question about a passage, and the parts of a full answer."""

    question: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        check_words(self.question, "the question")
        if not self.answers:
            raise InputError(f"the question {shorten(self.question)} has no answer: write one after a |.")
        for answer in self.answers:
            check_words(answer, f"a part of the answer to {shorten(self.question)}")


def normalize(text: str) -> str:
    """The text in casefolded form with single spaces between words."""
    return " ".join(text.split()).casefold()


def check_words(text: str, name: str) -> None:
    if not text.strip():
        raise InputError(f"{name} is empty: write it.")
    found = CONTROL.search(text)
    if found:
        raise InputError(f"{name} contains the control character {found.group()!r}: remove it.")
    if text != text.strip():
        raise InputError(f"{name} {shorten(text)} has surrounding space: remove it.")


def check_template(template: str, subject: str) -> None:
    check_words(template, "the paraphrase")
    count = template.count(SLOT)
    if count == 0 and subject in template:
        raise InputError(f"{shorten(template)} has no {{}}: write {{}} in place of {shorten(subject)}.")
    if count != 1:
        raise InputError(
            f"{shorten(template)} contains {{}} {count} times: write it once, in place of the subject."
        )
    if has_other_braces(template):
        raise InputError(f"{shorten(template)} contains a brace other than {{}}: remove it.")


def check_new_template(template: str, earlier: Iterable[str]) -> None:
    if normalize(template) in map(normalize, earlier):
        raise InputError(
            f"{shorten(template)} is already a template of this fact (-, ~ or ?): write each once. Evaluation "
            "paraphrases are not for training."
        )


def shorten(text: str) -> str:
    """Text of a file for a message: quoted, with escaped control characters, shortened."""
    return repr(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")
