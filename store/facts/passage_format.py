"""The facts of a passage: data classes, checks, and the text of a `.facts` file. `passage_reader` reads it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...prompts import SLOT, fill_prompt, has_other_braces
from ..errors import InputError

_MAX_SHOWN = 60
_APOSTROPHES = ("'", "’")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class PassageFact:
    """A fact of a passage.

    `prompt` is a template with one `{}` in place of the subject. The object, without a leading space, continues it
    and each paraphrase. `train_paraphrases` are for training, `eval_paraphrases` for evaluation only. Raises InputError
    for values that the file cannot hold.
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


@dataclass(frozen=True)
class Passage:
    """A passage: its facts in order, questions about it, and its text (empty if there are only facts)."""

    title: str
    text: str
    facts: tuple[PassageFact, ...]
    questions: tuple[PassageQuestion, ...] = ()

    def __post_init__(self) -> None:
        check_words(self.title, "the title")
        if not self.facts:
            raise InputError("the passage has no facts: write at least one.")
        for at, fact in enumerate(self.facts):
            if fact_key(fact) in map(fact_key, self.facts[:at]):
                raise InputError(
                    f"the fact {shorten(fill_prompt(fact.prompt, fact.subject))} occurs twice: remove one."
                )
        questions = [one.question for one in self.questions]
        for question in questions:
            if questions.count(question) > 1:
                raise InputError(f"the question {shorten(question)} occurs twice: remove one.")
        if self.text != clean_text(self.text):
            raise InputError(
                "the text has surrounding space or other line ends than \\n: call clean_text first."
            )


def clean_text(text: str) -> str:
    """The text without surrounding space, with \\n as line end. Raises InputError for characters that are not text."""
    found = _NOT_TEXT.search(text)
    if found:
        raise InputError(f"the text contains {found.group()!r}, which is not text: remove it.")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def format_passage(passage: Passage, remarks: Mapping[int, Sequence[str]] | None = None) -> str:
    """The text of the file. `parse_passage` of it returns the same passage.

    `remarks[i]` are written as comments below fact i: its problems, for the person who edits the file.
    """
    lines = [f"Title: {passage.title}", ""] if passage.title != passage.facts[0].subject else []
    lines += _fact_lines(passage.facts, remarks or {})
    if passage.questions:
        lines += ["", "## Questions"]
        lines += [_question_line(question) for question in passage.questions]
    if passage.text:
        lines += ["", "## Text", passage.text]
    return "\n".join(lines) + "\n"


def _fact_lines(facts: Iterable[PassageFact], remarks: Mapping[int, Sequence[str]]) -> list[str]:
    lines: list[str] = []
    subject = None
    for at, fact in enumerate(facts):
        if fact.subject != subject:
            lines += [*([""] if lines else []), f"# {_escaped(fact.subject, '')}"]
            subject = fact.subject
        lines.append(f"- {_escaped(_relation(fact.prompt), '|')} | {_escaped(fact.object, '|')}")
        lines += [f"  ! {' '.join(CONTROL.sub(' ', remark).split())}" for remark in remarks.get(at, ())]
        lines += [f"  ~ {_escaped(template, '')}" for template in fact.train_paraphrases]
        lines += [f"  ? {_escaped(template, '')}" for template in fact.eval_paraphrases]
    return lines


def _question_line(question: PassageQuestion) -> str:
    asked = _escaped(question.question, "|")
    if asked.startswith(("#", "!")):
        asked = f"\\{asked}"
    return f"{asked} | {'; '.join(_escaped(answer, '|;') for answer in question.answers)}"


def make_prompt(relation: str) -> str:
    if "{" in relation or "}" in relation:
        return relation
    return f"{{}}{relation}" if relation.startswith(_APOSTROPHES) else f"{{}} {relation}"


def _relation(prompt: str) -> str:
    """The shortest relation from which `make_prompt` makes this prompt."""
    relation = prompt.removeprefix("{}").strip()
    return relation if relation and make_prompt(relation) == prompt else prompt


def _escaped(text: str, separators: str) -> str:
    return re.sub(rf"[\\{separators}]", lambda found: f"\\{found.group()}", text)


class _Statement(Protocol):
    @property
    def subject(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def object(self) -> str: ...


def fact_key(fact: _Statement) -> tuple[str, str, str]:
    return (fact.subject, normalize(fact.prompt), normalize(fact.object))


def normalize(text: str) -> str:
    return " ".join(text.casefold().split())


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
