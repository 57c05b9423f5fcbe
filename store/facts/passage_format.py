"""A passage, and the text of its `.facts` file. `passage_reader` reads it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...passage_facts import CONTROL, PassageFact, PassageQuestion, check_words, normalize, shorten
from ..errors import InputError

_APOSTROPHES = ("'", "’")
_NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")


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
                raise InputError(f"the fact {shorten(fact.full_prompt)} occurs twice: remove one.")
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
