r"""Read a passage's facts from a plain text file.

The file is UTF-8 text, usually named `NAME.facts`. Blank lines and leading space have no meaning. The first characters
of a line decide what it is:

    Title: The cellist                       before the first subject; the default title is the first subject
    # Marta Lindqvist                        a subject; the following facts are about it, up to the next subject
    - is a professional | cellist            a fact: relation | object. The prompt is `{} is a professional`, with {} in
                                             place of the subject. A relation that contains {} is the whole prompt:
    - The mother of {} is | Anna Berg
      ~ {} earns her living as a             a training paraphrase; the object continues it
      ? By trade, {} is a                    an evaluation paraphrase, not used in training
      ! the object is long                   a comment (`format_passage` writes the problems of a fact as comments)
    ## Questions
    What does Marta do? | cellist; teacher   a question | the parts of a full answer, separated by ;
    ## Text
    The passage itself: all lines to the end of the file. This section comes last.

A relation that begins with an apostrophe follows the subject without a space (`- 's mother is | Anna Berg`). Write a
backslash before a `|`, `;` or backslash that belongs to the words, and before a `#` or `!` that begins a question.

Errors name the line: a fact before any subject, a subject without facts, a paraphrase before any fact, a template
without exactly one {} or with other braces, anything empty, a fact or a question that occurs twice, two equal templates
of a fact (ignoring case and spacing), control characters, text that is not UTF-8. Two facts with one prompt and
different objects are valid here; `engine.passages.checks` reports them.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from ...passage_facts import (
    CONTROL,
    PassageFact,
    PassageQuestion,
    check_new_template,
    check_template,
    check_words,
    shorten,
)  # fmt: skip
from ..errors import InputError
from .passage_format import Passage, clean_text, fact_key, make_prompt

SUFFIX = ".facts"
_MAX_BYTES = 16 * 2**20
_ESCAPED = re.compile(r"\\([\\|;#!])")


def read_passage(path: Path) -> Passage:
    """The passage in a file. Raises InputError with the file and the line."""
    return parse_passage(_read(path), str(path))


def read_prose(path: Path) -> str:
    """The text of a prose file, for the extraction of facts. Raises InputError with the file and the line."""
    text = clean_text(_read(path))
    if not text:
        raise InputError(f"{path} is empty: it must contain a text.")
    return text


def _read(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: split it into passages.")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give the path of a text file."
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: this is not UTF-8 (byte 0x{data[error.start]:02x}): save it so."
        ) from error


def parse_passage(text: str, where: str) -> Passage:
    """The passage in a text. `where` names the text in errors. Raises InputError with `where` and the line."""
    return _Reader(where).read(text)


@dataclass
class _Draft:
    """A fact whose paraphrases are not yet read."""

    line: int
    subject: str
    prompt: str
    object: str
    train_paraphrases: list[str] = field(default_factory=list)
    eval_paraphrases: list[str] = field(default_factory=list)

    @property
    def templates(self) -> list[str]:
        return [self.prompt, *self.train_paraphrases, *self.eval_paraphrases]


class _Reader:
    """The state between two lines of the file."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.line = 0
        self.title: str | None = None
        self.subject: tuple[str, int] | None = None  # and its line
        self.section = "facts"
        self.drafts: list[_Draft] = []
        self.questions: dict[str, tuple[PassageQuestion, int]] = {}

    def read(self, text: str) -> Passage:
        # Not splitlines(): a fact may contain U+2028 and similar characters.
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        body = ""
        for self.line, line in enumerate(lines, start=1):
            stripped = line.strip()
            try:
                if stripped == "## Text":
                    body = clean_text("\n".join(lines[self.line :]))
                    break
                if stripped and not stripped.startswith("!"):
                    self._read_line(stripped)
            except InputError as error:
                raise InputError(f"{self.where}, line {self.line}: {error}") from error
        self._close_subject()
        if not self.drafts:
            raise InputError(
                f"{self.where} has no facts: write a subject (# name) and facts (- relation | object)."
            )
        facts = [
            PassageFact(
                one.subject, one.prompt, one.object, tuple(one.train_paraphrases), tuple(one.eval_paraphrases)
            )
            for one in self.drafts
        ]
        questions = tuple(question for question, _ in self.questions.values())
        return Passage(self.title or facts[0].subject, body, tuple(facts), questions)

    def _read_line(self, line: str) -> None:
        found = CONTROL.search(line)
        if found and found.group() != "\t":
            raise InputError(f"the line contains the control character {found.group()!r}: remove it.")
        line = line.replace("\t", " ")
        if line.startswith("#"):
            self._heading(line)
        elif self.section == "questions":
            self._question(line)
        elif line.startswith("Title:"):
            self._title(line.removeprefix("Title:").strip())
        elif line.startswith("-"):
            self._fact(line[1:])
        elif line.startswith(("~", "?")):
            self._paraphrase(line[0], line[1:].strip())
        else:
            raise InputError(
                f"{shorten(line)} is none of these: # subject, - relation | object, ~ or ? paraphrase, ! comment, "
                "## Questions, ## Text."
            )

    def _heading(self, line: str) -> None:
        level, _, name = line.partition(" ")
        name = _unescape(name.strip())
        if level == "##" and name == "Questions":
            self._close_subject()
            self.section = "questions"
        elif level == "#":
            self._close_subject()
            check_words(name, "the subject")
            self.subject, self.section = (name, self.line), "facts"
        else:
            raise InputError(
                f"{shorten(line)} is not a heading of a passage: write # and a subject, ## Questions, or ## Text."
            )

    def _close_subject(self) -> None:
        """Raise InputError if no fact follows the last subject."""
        if self.subject is not None and not any(draft.line > self.subject[1] for draft in self.drafts):
            name, line = self.subject
            raise InputError(
                f"{self.where}, line {line}: the subject {shorten(name)} has no facts: write one below, or remove it."
            )
        self.subject = None

    def _title(self, title: str) -> None:
        if self.subject is not None or self.title is not None:
            raise InputError("write one title, before the first subject.")
        check_words(title, "the title")
        self.title = title

    def _fact(self, line: str) -> None:
        if self.subject is None:
            raise InputError("this fact has no subject: write # and the subject above it.")
        parts = _split(line, "|")
        if len(parts) == 1:
            raise InputError(f"the fact {shorten(line.strip())} has no |: write relation | object.")
        if len(parts) > 2:
            raise InputError(
                f"the fact {shorten(line.strip())} has more than one |: write \\| for one that belongs to the words."
            )
        relation, object = map(_unescape, parts)
        if not relation:
            raise InputError("the relation is empty: write relation | object.")
        check_words(object, "the object")
        subject = self.subject[0]
        draft = _Draft(self.line, subject, make_prompt(relation), object)
        check_template(draft.prompt, subject)
        for earlier in self.drafts:
            if fact_key(earlier) == fact_key(draft):
                raise InputError(f"this fact is already in line {earlier.line}: remove one.")
        self.drafts.append(draft)

    def _paraphrase(self, kind: str, line: str) -> None:
        if self.subject is None or not self.drafts or self.drafts[-1].line < self.subject[1]:
            raise InputError(f"this paraphrase ({kind}) has no fact: write the fact above it.")
        draft, template = self.drafts[-1], _unescape(line)
        check_template(template, draft.subject)
        check_new_template(template, draft.templates)
        (draft.train_paraphrases if kind == "~" else draft.eval_paraphrases).append(template)

    def _question(self, line: str) -> None:
        parts = _split(line, "|")
        if len(parts) != 2:
            raise InputError(f"{shorten(line)} has {len(parts) - 1} |: write question | parts of the answer.")
        asked = _unescape(parts[0])
        question = PassageQuestion(asked, tuple(map(_unescape, _split(parts[1], ";"))))
        if asked in self.questions:
            raise InputError(f"this question is already in line {self.questions[asked][1]}: remove one.")
        self.questions[asked] = question, self.line


def _split(line: str, separator: str) -> list[str]:
    """The parts between unescaped separators, still escaped, without surrounding space."""
    parts = [""]
    for piece in re.findall(rf"\\.|{re.escape(separator)}|[^\\]|\\$", line):
        if piece == separator:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
