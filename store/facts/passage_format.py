r"""A passage's facts as a plain text file that a person likes to write: the data classes, reading and writing.

The file is UTF-8 text, by custom named `NAME.facts`. Blank lines and space around a line mean nothing. By how a line
begins:

    Title: The cellist                       before the first subject; without it the first subject is the title
    # Marta Lindqvist                        a subject; the facts that follow are about it, to the next subject
    - is a professional | cellist            a fact: relation | object. The prompt is `{} is a professional`: {} stands
                                             for the subject. One that holds {} is the prompt as it is:
    - The mother of {} is | Anna Berg
      ~ {} earns her living as a             another wording, to be trained on; the object continues it
      ? By trade, {} is a                    a wording that is only ever asked (held out)
      ! the object is long                   a remark; not read (`format_passage` writes the problems of a fact so)
    ## Questions
    What does Marta do? | cellist; teacher   a question | the parts that a full answer holds, separated by ;
    ## Text
    The passage itself: all lines to the end of the file, whatever they look like, so this section comes last.

A relation that begins with an apostrophe follows the subject without a space (`- 's mother is | Anna Berg`). A `|`, `;`
or backslash that belongs to the words is written with a backslash before it, and so is a `#` or `!` that would begin a
question.

Refused, with the line: a fact before any subject, a subject without facts, a wording before any fact, a wording without
exactly one {}, braces besides {}, anything empty, a fact or a question that stands twice, two equal wordings of a fact
(upper case and spacing set aside; the prompt counts as one), control characters, text that is not UTF-8. Two facts with
one prompt and different objects can be read; `engine.passages.checks` shows what is wrong with them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..errors import InputError

SUFFIX = ".facts"
_LARGEST = 16 * 2**20
_SHOWN = 60
_APOSTROPHES = ("'", "’")
_ESCAPED = re.compile(r"\\([\\|;#!])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class PassageFact:
    """A fact of a passage.

    `prompt` is a template with one `{}` where the subject stands; the object, without a space before it, continues it
    as it continues each of `wordings` (to be trained on) and `held_out` (only ever asked). Raises InputError for what
    the file could not hold.
    """

    subject: str
    prompt: str
    object: str
    train_paraphrases: tuple[str, ...] = ()
    eval_paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_words(self.subject, "the subject")
        _check_words(self.object, "the object")
        earlier: list[str] = []
        for template in (self.prompt, *self.train_paraphrases, *self.eval_paraphrases):
            _check_template(template, self.subject)
            _check_new_wording(template, earlier)
            earlier.append(template)


@dataclass(frozen=True)
class PassageQuestion:
    """A question about a passage, and the parts that a full answer holds."""

    question: str
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_words(self.question, "the question")
        if not self.answers:
            raise InputError(f"the question {_shown(self.question)} has no answer: write it after a |.")
        for answer in self.answers:
            _check_words(answer, f"a part of the answer to {_shown(self.question)}")


@dataclass(frozen=True)
class Passage:
    """A passage: its facts in their order, questions about it, and its text (empty if only facts are known)."""

    title: str
    text: str
    facts: tuple[PassageFact, ...]
    questions: tuple[PassageQuestion, ...] = ()

    def __post_init__(self) -> None:
        _check_words(self.title, "the title")
        if not self.facts:
            raise InputError("the passage holds no fact: write at least one.")
        for at, fact in enumerate(self.facts):
            if _identity(fact) in map(_identity, self.facts[:at]):
                raise InputError(
                    f"the fact {_shown(fact.prompt.replace('{}', fact.subject))} stands twice: leave one out."
                )
        asked = [one.question for one in self.questions]
        for question in asked:
            if asked.count(question) > 1:
                raise InputError(f"the question {_shown(question)} stands twice: leave one out.")
        if self.text != clean_text(self.text):
            raise InputError(
                "the text has space around it or odd line ends: put it through clean_text first."
            )


def clean_text(text: str) -> str:
    """A passage's text as it is kept: lines end in newlines only, nothing blank around. Raises InputError if it holds
    characters that are no text."""
    found = _NOT_TEXT.search(text)
    if found:
        raise InputError(f"the text holds {found.group()!r}, which is no text: take it out.")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def read_passage(path: Path) -> Passage:
    """The passage in a file. Raises InputError with file and line for what cannot be read."""
    return parse_passage(_read(path), str(path))


def read_prose(path: Path) -> str:
    """The text of a file that is prose, to be split into facts. Raises InputError with file and line."""
    text = clean_text(_read(path))
    if not text:
        raise InputError(f"{path} is empty: it must hold a text.")
    return text


def _read(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > _LARGEST:
            raise InputError(f"{path} is larger than {_LARGEST >> 20} MiB: split it into passages.")
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
    """The passage in a text; `where` names it in errors.

    Raises:
        InputError: with `where` and the line.
    """
    return _Reader(where).read(text)


@dataclass
class _Draft:
    """A fact whose wordings are still being read."""

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
    def __init__(self, where: str) -> None:
        self.where = where
        self.line = 0
        self.title: str | None = None
        self.subject: tuple[str, int] | None = None  # and its line
        self.section = "facts"
        self.drafts: list[_Draft] = []
        self.questions: dict[str, tuple[PassageQuestion, int]] = {}

    def read(self, text: str) -> Passage:
        # Not splitlines(): a fact may hold U+2028 and its like.
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        body = ""
        for self.line, line in enumerate(lines, start=1):
            stripped = line.strip()
            try:
                if stripped == "## Text":
                    body = clean_text("\n".join(lines[self.line :]))
                    break
                if stripped and not stripped.startswith("!"):
                    self._take(stripped)
            except InputError as error:
                raise InputError(f"{self.where}, line {self.line}: {error}") from error
        self._close_subject()
        if not self.drafts:
            raise InputError(
                f"{self.where} holds no fact: write a subject (# name) and facts (- relation | object)."
            )
        facts = [
            PassageFact(
                one.subject, one.prompt, one.object, tuple(one.train_paraphrases), tuple(one.eval_paraphrases)
            )
            for one in self.drafts
        ]
        questions = tuple(question for question, _ in self.questions.values())
        return Passage(self.title or facts[0].subject, body, tuple(facts), questions)

    def _take(self, line: str) -> None:
        found = _CONTROL.search(line)
        if found and found.group() != "\t":
            self._refuse(f"the line holds the control character {found.group()!r}: take it out.")
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
            self._wording(line[0], line[1:].strip())
        else:
            self._refuse(
                f"{_shown(line)} is none of these: # subject, - relation | object, ~ or ? wording, ! remark, "
                "## Questions, ## Text."
            )

    def _heading(self, line: str) -> None:
        level, _, name = line.partition(" ")
        name = _plain(name.strip())
        if level == "##" and name == "Questions":
            self._close_subject()
            self.section = "questions"
        elif level == "#":
            self._close_subject()
            _check_words(name, "the subject")
            self.subject, self.section = (name, self.line), "facts"
        else:
            self._refuse(
                f"{_shown(line)} is no heading of a passage: write # and a subject, ## Questions, or ## Text."
            )

    def _close_subject(self) -> None:
        """Refuse the last subject if no fact follows it."""
        if self.subject is not None and not any(draft.line > self.subject[1] for draft in self.drafts):
            name, line = self.subject
            raise InputError(
                f"{self.where}, line {line}: the subject {_shown(name)} has no fact: write one below, or take it out."
            )
        self.subject = None

    def _title(self, title: str) -> None:
        if self.subject is not None or self.title is not None:
            self._refuse("the title stands once, before the first subject.")
        _check_words(title, "the title")
        self.title = title

    def _fact(self, line: str) -> None:
        if self.subject is None:
            self._refuse("a fact stands before any subject: write # and the subject above it.")
        parts = _split(line, "|")
        if len(parts) == 1:
            self._refuse(f"the fact {_shown(line.strip())} has no |: write relation | object.")
        if len(parts) > 2:
            self._refuse(
                f"the fact {_shown(line.strip())} has more than one |: write \\| for one that is text."
            )
        relation, object = map(_plain, parts)
        if not relation:
            self._refuse("the relation is empty: write relation | object.")
        _check_words(object, "the object")
        subject = self.subject[0]
        draft = _Draft(self.line, subject, _prompt(relation), object)
        _check_template(draft.prompt, subject)
        for earlier in self.drafts:
            if _identity(earlier) == _identity(draft):
                self._refuse(f"this fact stands in line {earlier.line} already: leave one out.")
        self.drafts.append(draft)

    def _wording(self, kind: str, line: str) -> None:
        if self.subject is None or not self.drafts or self.drafts[-1].line < self.subject[1]:
            self._refuse(f"a wording ({kind}) stands before any fact: write the fact above it.")
        draft, template = self.drafts[-1], _plain(line)
        _check_template(template, draft.subject)
        _check_new_wording(template, draft.templates)
        (draft.train_paraphrases if kind == "~" else draft.eval_paraphrases).append(template)

    def _question(self, line: str) -> None:
        parts = _split(line, "|")
        if len(parts) != 2:
            self._refuse(f"{_shown(line)} has {len(parts) - 1} |: write question | parts of the answer.")
        asked = _plain(parts[0])
        made = PassageQuestion(asked, tuple(map(_plain, _split(parts[1], ";"))))
        if asked in self.questions:
            self._refuse(f"this question stands in line {self.questions[asked][1]} already: leave one out.")
        self.questions[asked] = made, self.line

    def _refuse(self, message: str) -> NoReturn:
        raise InputError(message)


def format_passage(passage: Passage, remarks: Mapping[int, Sequence[str]] | None = None) -> str:
    """The file's text. `parse_passage` makes the same passage of it.

    `remarks[i]` are written below fact i as lines that are not read: its problems, for a person who edits the file.
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
        lines += [f"  ! {' '.join(_CONTROL.sub(' ', remark).split())}" for remark in remarks.get(at, ())]
        lines += [f"  ~ {_escaped(wording, '')}" for wording in fact.train_paraphrases]
        lines += [f"  ? {_escaped(wording, '')}" for wording in fact.eval_paraphrases]
    return lines


def _question_line(question: PassageQuestion) -> str:
    asked = _escaped(question.question, "|")
    if asked.startswith(("#", "!")):
        asked = f"\\{asked}"
    return f"{asked} | {'; '.join(_escaped(answer, '|;') for answer in question.answers)}"


def _prompt(relation: str) -> str:
    if "{" in relation or "}" in relation:
        return relation
    return f"{{}}{relation}" if relation.startswith(_APOSTROPHES) else f"{{}} {relation}"


def _relation(prompt: str) -> str:
    """The shortest that `_prompt` makes this prompt of."""
    relation = prompt.removeprefix("{}").strip()
    return relation if relation and _prompt(relation) == prompt else prompt


def _split(line: str, separator: str) -> list[str]:
    """The parts between separators that have no backslash before them, still escaped, without space around."""
    parts = [""]
    for piece in re.findall(rf"\\.|{re.escape(separator)}|[^\\]|\\$", line):
        if piece == separator:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _escaped(text: str, separators: str) -> str:
    return re.sub(rf"[\\{separators}]", lambda found: f"\\{found.group()}", text)


def _identity(fact: PassageFact | _Draft) -> tuple[str, str, str]:
    return (fact.subject, _alike(fact.prompt), _alike(fact.object))


def _alike(text: str) -> str:
    return " ".join(text.casefold().split())


def _check_words(text: str, what: str) -> None:
    if not text.strip():
        raise InputError(f"{what} is empty: write it out.")
    found = _CONTROL.search(text)
    if found:
        raise InputError(f"{what} holds the control character {found.group()!r}: take it out.")
    if text != text.strip():
        raise InputError(f"{what} {_shown(text)} has space around it: take that away.")


def _check_template(template: str, subject: str) -> None:
    _check_words(template, "the wording")
    count = template.count("{}")
    if count == 0 and subject in template:
        raise InputError(
            f"the wording {_shown(template)} has no {{}}: write {{}} in place of {_shown(subject)}."
        )
    if count != 1:
        raise InputError(
            f"the wording {_shown(template)} holds {{}} {count} times: it stands once, where the subject does."
        )
    if re.search(r"[{}]", template.replace("{}", "")):
        raise InputError(f"the wording {_shown(template)} holds a brace besides {{}}: write it without.")


def _check_new_wording(template: str, earlier: Iterable[str]) -> None:
    if _alike(template) in map(_alike, earlier):
        raise InputError(
            f"the wording {_shown(template)} stands at this fact already (as -, ~ or ?): each stands once, and one "
            "that is asked is not trained on."
        )


def _shown(text: str) -> str:
    """Other people's text in a message: quoted, control characters spelt out, not too long."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
