"""From a text to its facts, their wordings and questions, by a language model that is asked step by step.

The steps of the experiment that the project began with: sentences that stand alone, each split into subject, relation
and a short object, relations that are equal rewritten until they can be told apart. Then facts that name what belongs
together, other wordings of each fact, some of them held out, and questions. Each step is a function of what the ones
before it made; over a `chat.Remembered` a step that was cut off goes on where it was, and a `chat.Counted` tells what
it cost. Loads no torch.

A model's sentences are taken only as far as they do what they must: a wording that does not end with the object or
does not name the subject once is left out, and asked for once more.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeVar

from ...errors import InputError
from ...progress import Progress, Report, silent
from ..facts import Fact, Question, Triple, alike
from .chat import Chat, ask
from .prompts import (
    DISTINCT,
    FACT_QUESTIONS,
    GATHERED,
    PASSAGE_QUESTIONS,
    REWORDED,
    SELF_CONTAINED,
    SPLIT,
    Asked,
    FactQuestions,
    Gathered,
    GatheredFacts,
    PassageQuestions,
    Relations,
    Sentences,
    SplitFact,
    SplitFacts,
    Wordings,
)

S = TypeVar("S")

WORDINGS, HELD_OUT = 8, 2
# Characters of text, and sentences or facts, in one request: small models lose count of more.
_PORTION = 1500
_AT_ONCE = 6
# Questions about the whole passage.
_OVER_ALL = 5
# Of the wordings, the share that are questions with their answers.
_QUESTIONS = 1 / 3
# Of so many facts of one subject some may belong together; so many are named at once.
_SEVERAL, _TOGETHER = 3, (2, 3)
_ARTICLE = re.compile(r"(?i)^(.*\S)\s+(the|a|an)$")


@dataclass(frozen=True)
class Extracted:
    facts: list[Fact]
    questions: list[Question]


def extract(chat: Chat, title: str, text: str, report: Report = silent) -> Extracted:
    """All steps. `title` says whom or what the text is about; it may be empty.

    Raises:
        InputError: the text is empty or holds no fact, or the chat cannot be asked so.
        EndpointError: the chat failed, or gave no reply that can be used.
    """
    triples = distinct(chat, split(chat, self_contained(chat, title, text, report), report), report)
    if not triples:
        raise InputError(f"{chat.name} found no fact in the text: write its facts by hand")
    triples += gathered(chat, triples, report)
    facts = reworded(chat, triples, report)
    return Extracted(facts, questioned(chat, facts, text, report))


def self_contained(chat: Chat, title: str, text: str, report: Report = silent) -> list[str]:
    """Step 1: the text as sentences of one fact each that name their subject."""
    if not text.strip():
        raise InputError("the text is empty")
    parts = portions(text)
    found: list[str] = []
    for at, part in enumerate(parts):
        report(Progress(at, len(parts), "portions", "sentences that stand alone"))
        before = f"The text before it ends: {parts[at - 1][-300:]}\n\n" if at else ""
        about = f"The text is about {title}.\n\n" if title.strip() else ""
        found += ask(chat, SELF_CONTAINED, f"{about}{before}Text:\n{part}", Sentences).sentences
    report(Progress(len(parts), len(parts), "portions", "sentences that stand alone"))
    return _once(found, alike)


def split(chat: Chat, sentences: Sequence[str], report: Report = silent) -> list[Triple]:
    """Step 2: subject, relation and object of each sentence; none twice.

    A relation does not end with an article: it goes to the object, since words like "the" carry keys that an edit
    must not touch.
    """
    found: list[Triple] = []
    for done, batch in _batches(sentences):
        report(Progress(done, len(sentences), "sentences", "subject, relation, object"))
        numbered = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(batch, start=1))
        found += [_triple(one, batch) for one in ask(chat, SPLIT, numbered, SplitFacts).facts]
    report(Progress(len(sentences), len(sentences), "sentences", "subject, relation, object"))
    return _once(found, _identity)


def distinct(chat: Chat, triples: Sequence[Triple], report: Report = silent) -> list[Triple]:
    """Step 3: relations that several facts of a subject share, rewritten. Those that stay equal are left to the
    checks."""
    groups: dict[tuple[str, str], list[int]] = {}
    for at, one in enumerate(triples):
        groups.setdefault((alike(one.subject), alike(one.relation)), []).append(at)
    shared = [group for group in groups.values() if len(group) > 1]
    made = list(triples)
    for done, group in enumerate(shared):
        report(Progress(done, len(shared), "relations", "telling equal relations apart"))
        listed = "\n".join(f"{number}. {_line(made[at])}" for number, at in enumerate(group, start=1))
        for new in ask(chat, DISTINCT, listed, Relations).relations:
            if 1 <= new.number <= len(group):
                at = group[new.number - 1]
                made[at] = tidy(replace(made[at], relation=new.relation))
    report(Progress(len(shared), len(shared), "relations", "telling equal relations apart"))
    return made


def gathered(chat: Chat, triples: Sequence[Triple], report: Report = silent) -> list[Triple]:
    """Step 4: facts that name two or three objects of a subject together.

    A question that asks for several things is answered with one of them unless such a fact was trained, too
    (docs/passages.md). One that does not hold the objects of its facts is left out.
    """
    subjects: dict[str, list[Triple]] = {}
    for one in triples:
        subjects.setdefault(alike(one.subject), []).append(one)
    several = [group for group in subjects.values() if len(group) >= _SEVERAL]
    found: list[Triple] = []
    for done, group in enumerate(several):
        report(Progress(done, len(several), "subjects", "what belongs together"))
        listed = "\n".join(f"{number}. {_line(one)}" for number, one in enumerate(group, start=1))
        made = ask(chat, GATHERED, listed, GatheredFacts).facts
        found += [triple for one in made if (triple := _together(one, group)) is not None]
    report(Progress(len(several), len(several), "subjects", "what belongs together"))
    return _once(found, _identity)


def _together(made: Gathered, group: Sequence[Triple]) -> Triple | None:
    numbers = {number for number in made.numbers if 1 <= number <= len(group)}
    objects = [group[number - 1].object for number in numbers]
    if len(numbers) not in _TOGETHER or not all(_holds(made.object, object) for object in objects):
        return None
    triple = tidy(Triple(group[0].subject, made.relation, made.object))
    return None if any(_holds(triple.relation, object) for object in objects) else triple


def reworded(
    chat: Chat,
    triples: Sequence[Triple],
    report: Report = silent,
    wordings: int = WORDINGS,
    held_out: int = HELD_OUT,
) -> list[Fact]:
    """Other wordings of each fact, as templates that its object continues; `held_out` of them are only to be asked.

    There may be fewer, where the model gives fewer that can be used; then at most half of them are held out.
    """
    facts: list[Fact] = []
    for done, one in enumerate(triples):
        report(Progress(done, len(triples), "facts", "other wordings"))
        statements, questions = _wordings(chat, one, wordings + held_out)
        kept = min(held_out, (len(statements) + len(questions)) // 2)
        # A statement and a question by turns, so that both are asked in words that were never trained.
        held = [
            (statements if (at % 2 == 0 and statements) or not questions else questions).pop()
            for at in range(kept)
        ]
        facts.append(
            Fact(one.subject, one.prompt, one.object, (*statements, *questions), tuple(held), one.sentence)
        )
    report(Progress(len(triples), len(triples), "facts", "other wordings"))
    return facts


def questioned(chat: Chat, facts: Sequence[Fact], text: str, report: Report = silent) -> list[Question]:
    """A question for each fact, which its object answers, and some that take several facts together.

    Of the answers' parts those count that the text or a fact holds.
    """
    found: list[Question] = []
    for done, batch in _batches(facts):
        report(Progress(done, len(facts) + 1, "facts", "questions"))
        listed = "\n".join(
            f"{number}. {one.subject} | {one.prompt.removeprefix('{}').strip()} | {one.object}"
            for number, one in enumerate(batch, start=1)
        )
        for new in ask(chat, FACT_QUESTIONS, listed, FactQuestions).questions:
            if 1 <= new.number <= len(batch) and not _holds(new.question, batch[new.number - 1].object):
                found.append(Question(new.question, (batch[new.number - 1].object,)))
    report(Progress(len(facts), len(facts) + 1, "facts", "questions"))
    whole = text if text.strip() else "\n".join(f"{one.text} {one.object}." for one in facts)
    known = " ".join([text, *(f"{one.subject} {one.object}" for one in facts)])
    cut = portions(whole)
    each = ceil(_OVER_ALL / len(cut))
    for part in cut:
        asked = f"Write {each} questions.\n\nText:\n{part}"
        for over in ask(chat, PASSAGE_QUESTIONS, asked, PassageQuestions).questions[:each]:
            parts = tuple(
                dict.fromkeys(one.rstrip(".") for one in over.answers if _holds(known, one.rstrip(".")))
            )
            if parts:
                found.append(Question(over.question, parts))
    report(Progress(len(facts) + 1, len(facts) + 1, "facts", "questions"))
    return _once(found, lambda one: alike(one.question))


def portions(text: str) -> list[str]:
    """A text cut where paragraphs, lines or sentences end, each portion as long as a request may be. None is empty."""
    pieces = [text.strip()]
    for mark in (r"\n\s*\n", r"\n", r"(?<=[.!?。！？])\s+", r"\s+"):
        cut = [re.split(mark, piece) if len(piece) > _PORTION else [piece] for piece in pieces]
        pieces = [piece.strip() for parts in cut for piece in parts if piece.strip()]
    joined: list[str] = []
    for piece in pieces:
        if joined and len(joined[-1]) + len(piece) < _PORTION:
            joined[-1] += f"\n{piece}"
        else:
            joined.append(piece)
    return joined


def make_template(sentence: str, subject: str, object: str) -> str | None:
    """The template that a sentence makes, `{}` for the subject and cut before the object that ends it; None if it
    does not hold the subject once, or does not end with the object."""
    said = sentence.rstrip(" .!")
    wanted = object.rstrip(" .!")
    before = said[: len(said) - len(wanted)]
    if said[len(before) :].casefold() != wanted.casefold() or (before and before[-1].isalnum()):
        return None
    places = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", before))
    if len(places) != 1 or _holds(before, wanted):
        return None
    begin, end = places[0].span()
    template = f"{before[:begin]}{{}}{before[end:]}".strip()
    return template if template != "{}" else None


def tidy(one: Triple) -> Triple:
    """A triple without what models add: a full stop at the object, the subject or the object again in the relation, an
    article at its end (which goes to the object)."""
    object = one.object.strip().rstrip(".;,") or one.object
    relation = one.relation
    if alike(relation).startswith(alike(one.subject) + " "):
        relation = relation[len(one.subject) :].strip()
    if alike(relation).endswith(" " + alike(object)):
        relation = relation[: -len(object)].strip()
    article = _ARTICLE.match(relation)
    if article:
        relation, object = article.group(1), f"{article.group(2)} {object}"
    return replace(one, relation=relation, object=object)


def _triple(one: SplitFact, sentences: Sequence[str]) -> Triple:
    sentence = sentences[one.sentence - 1] if 1 <= one.sentence <= len(sentences) else ""
    return tidy(Triple(one.subject, one.relation, one.object, sentence))


def _wordings(chat: Chat, one: Triple, wanted: int) -> tuple[list[str], list[str]]:
    """Templates: of statements, and of questions with the beginning of their answers."""
    questions = round(wanted * _QUESTIONS)
    fact = (
        f"Subject: {one.subject}\nObject: {one.object}\nSentence: {one.text} {one.object}\n"
        f"Write {wanted - questions} statements and {questions} questions."
    )
    made = ask(chat, REWORDED, fact, Wordings)
    found = _usable(made, one)
    if len(found[0]) + len(found[1]) < wanted:
        had = [*made.statements, *(f"{asked.question} {asked.answer}" for asked in made.questions)]
        again = (
            f"{fact}\nThese you have written already; some do not hold the subject once, letter for letter, or do not "
            "end with the object. Write others:\n" + "\n".join(had)
        )
        more = ask(chat, REWORDED, again, Wordings)
        both = Wordings(
            statements=made.statements + more.statements, questions=made.questions + more.questions
        )
        found = _usable(both, one)
    return found[0][: wanted - questions], found[1][:questions]


def _usable(made: Wordings, one: Triple) -> tuple[list[str], list[str]]:
    seen = {alike(one.prompt)}

    def new(templates: Iterable[str | None]) -> list[str]:
        found = []
        for template in templates:
            if template is not None and alike(template) not in seen:
                seen.add(alike(template))
                found.append(template)
        return found

    statements = new(make_template(statement, one.subject, one.object) for statement in made.statements)
    return statements, new(_question_template(asked, one) for asked in made.questions)


def _question_template(asked: Asked, one: Triple) -> str | None:
    """`Question: Where did {} study? Answer: At the`, as a model that completes text is asked."""
    if _holds(asked.question, one.object):
        return None
    return make_template(f"Question: {asked.question} Answer: {asked.answer}", one.subject, one.object)


def _line(one: Triple) -> str:
    return f"{one.subject} | {one.relation} | {one.object}"


def _identity(one: Triple) -> tuple[str, ...]:
    return alike(one.subject), alike(one.relation), alike(one.object)


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(alike(words))}(?!\w)", alike(text)) is not None


def _once(items: Iterable[S], identity: Callable[[S], object]) -> list[S]:
    """The first of those that are the same."""
    found: dict[object, S] = {}
    for one in items:
        found.setdefault(identity(one), one)
    return list(found.values())


def _batches(items: Sequence[S]) -> Iterator[tuple[int, Sequence[S]]]:
    """(how many come before, the next few)."""
    for begin in range(0, len(items), _AT_ONCE):
        yield begin, items[begin : begin + _AT_ONCE]
