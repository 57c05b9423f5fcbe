"""Extract facts, paraphrases and questions from a text by a language model, step by step. Imports no torch.

The steps: write self-contained sentences, split each into subject, relation and a short object, disambiguate equal
relations, combine facts that belong together, paraphrase each fact, and write questions. Each step is a function of the
results before it. With a `chat.CachedChat`, an interrupted extraction resumes.

The model's sentences are checked. A paraphrase that does not end with the object, or does not contain the subject
exactly once, is dropped, and the request is repeated once.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeVar

from ....passage_facts import PassageFact, PassageQuestion, normalize
from ....prompts import fill_prompt
from ...errors import InputError
from ...evaluation.matching import contains_phrase
from ...progress import Progress, Report, silent
from .chat import Chat, request_json
from .prompts import (
    COMBINE_FACTS,
    DISAMBIGUATE,
    PARAPHRASE,
    SPLIT_SENTENCES,
    WRITE_FACT_QUESTIONS,
    WRITE_SENTENCES,
    WRITE_TEXT_QUESTIONS,
    CombinedFact,
    CombinedFacts,
    FactQuestions,
    Paraphrases,
    QuestionWithAnswer,
    Relations,
    Sentences,
    SplitFacts,
    TextQuestions,
)

S = TypeVar("S")

TRAIN_PARAPHRASES, EVAL_PARAPHRASES = 8, 2
# Characters of text, and sentences or facts, per request: small models lose track of more.
_PORTION_CHARACTERS = 1500
_BATCH_ITEMS = 6
# Questions about the whole passage.
_TEXT_QUESTIONS = 5
# The share of paraphrases that are questions with their answers.
_QUESTION_SHARE = 1 / 3
# Facts are combined if a subject has at least 3 of them; a combined fact joins 2 or 3.
_MIN_FACTS_TO_COMBINE, _COMBINED_SIZES = 3, (2, 3)
_TRAILING_ARTICLE = re.compile(r"(?i)^(.*\S)\s+(the|a|an)$")


@dataclass(frozen=True)
class Triple:
    """A fact as subject, relation and object. `{subject} {relation} {object}` reads as a sentence."""

    subject: str
    relation: str
    object: str

    @property
    def prompt(self) -> str:
        """The relation as a template. A relation such as "'s mother is" follows the subject without a space."""
        space = "" if self.relation.startswith(("'", "’")) else " "
        return f"{{}}{space}{self.relation}"

    @property
    def full_prompt(self) -> str:
        """The prompt with the subject in it."""
        return fill_prompt(self.prompt, self.subject)


@dataclass(frozen=True)
class ExtractedPassage:
    """The result of an extraction."""

    facts: list[PassageFact]
    questions: list[PassageQuestion]


def extract_passage(chat: Chat, title: str, text: str, report: Report = silent) -> ExtractedPassage:
    """Run all steps. `title` is the topic of the text; it may be empty.

    Raises:
        InputError: the text is empty or contains no facts, or the chat cannot be used with these settings.
        EndpointError: the chat failed, or gave no usable reply.
    """
    sentences = write_sentences(chat, title, text, report)
    triples = disambiguate(chat, split_into_triples(chat, sentences, report), report)
    if not triples:
        raise InputError(f"{chat.name} found no facts in the text. Write the facts by hand.")
    triples += combine_facts(chat, triples, report)
    facts = paraphrase(chat, triples, report)
    return ExtractedPassage(facts, write_questions(chat, facts, text, report))


def write_sentences(chat: Chat, title: str, text: str, report: Report = silent) -> list[str]:
    """Step 1: rewrite the text as sentences that state one fact each and name their subject."""
    if not text.strip():
        raise InputError("The text is empty. Give a text to extract facts from.")
    parts = split_text(text)
    sentences: list[str] = []
    batches = _iter_batches(parts, 1, report, "portions", "writing self-contained sentences")
    for at, [part] in enumerate(batches):
        before = f"The text before it ends: {parts[at - 1][-300:]}\n\n" if at else ""
        about = f"The text is about {title}.\n\n" if title.strip() else ""
        request = f"{about}{before}Text:\n{part}"
        sentences += request_json(chat, WRITE_SENTENCES, request, Sentences).sentences
    return _deduplicate(sentences, normalize)


def split_into_triples(chat: Chat, sentences: Sequence[str], report: Report = silent) -> list[Triple]:
    """Step 2: subject, relation and object of each sentence, without duplicates.

    An article at the end of a relation moves to the object. Words like "the" have keys that an edit must not change.
    """
    triples: list[Triple] = []
    for batch in _iter_batches(sentences, _BATCH_ITEMS, report, "sentences", "splitting sentences"):
        reply = request_json(chat, SPLIT_SENTENCES, _number(batch), SplitFacts)
        triples += [clean_triple(Triple(one.subject, one.relation, one.object)) for one in reply.facts]
    return _deduplicate(triples, _identify)


def disambiguate(chat: Chat, triples: Sequence[Triple], report: Report = silent) -> list[Triple]:
    """Step 3: rewrite relations that several facts of a subject share. The checks report those that stay equal."""
    groups: dict[tuple[str, str], list[int]] = {}
    for at, one in enumerate(triples):
        groups.setdefault((normalize(one.subject), normalize(one.relation)), []).append(at)
    shared = [group for group in groups.values() if len(group) > 1]
    rewritten = list(triples)
    for [group] in _iter_batches(shared, 1, report, "relations", "disambiguating equal relations"):
        request = _number(_format_triple(rewritten[at]) for at in group)
        for new in request_json(chat, DISAMBIGUATE, request, Relations).relations:
            if 1 <= new.number <= len(group):
                at = group[new.number - 1]
                rewritten[at] = clean_triple(replace(rewritten[at], relation=new.relation))
    return rewritten


def combine_facts(chat: Chat, triples: Sequence[Triple], report: Report = silent) -> list[Triple]:
    """Step 4: facts that join two or three objects of a subject.

    Without such a training fact, a model answers a question for several things with only one of them (see
    docs/passages.md). A combined fact that does not contain the objects of its facts is dropped.
    """
    subjects: dict[str, list[Triple]] = {}
    for one in triples:
        subjects.setdefault(normalize(one.subject), []).append(one)
    groups = [group for group in subjects.values() if len(group) >= _MIN_FACTS_TO_COMBINE]
    combined: list[Triple] = []
    for [group] in _iter_batches(groups, 1, report, "subjects", "combining facts"):
        request = _number(map(_format_triple, group))
        for fact in request_json(chat, COMBINE_FACTS, request, CombinedFacts).facts:
            triple = _build_combined_triple(fact, group)
            combined += [triple] if triple else []
    return _deduplicate(combined, _identify)


def _build_combined_triple(fact: CombinedFact, group: Sequence[Triple]) -> Triple | None:
    numbers = {number for number in fact.numbers if 1 <= number <= len(group)}
    objects = [group[number - 1].object for number in numbers]
    if len(numbers) not in _COMBINED_SIZES or not all(contains_phrase(fact.object, one) for one in objects):
        return None
    triple = clean_triple(Triple(group[0].subject, fact.relation, fact.object))
    return None if any(contains_phrase(triple.relation, one) for one in objects) else triple


def paraphrase(chat: Chat, triples: Sequence[Triple], report: Report = silent) -> list[PassageFact]:
    """Step 5: paraphrases of each fact, as templates that its object continues.

    If the model returns fewer usable paraphrases than requested, at most half of them are used for evaluation.
    """
    facts: list[PassageFact] = []
    for [one] in _iter_batches(triples, 1, report, "facts", "writing paraphrases"):
        statements, questions = _request_paraphrases(chat, one, TRAIN_PARAPHRASES + EVAL_PARAPHRASES)
        # Alternate between statements and questions, so that the evaluation has both.
        for_eval = [
            (statements if (at % 2 == 0 and statements) or not questions else questions).pop()
            for at in range(min(EVAL_PARAPHRASES, (len(statements) + len(questions)) // 2))
        ]
        facts.append(
            PassageFact(one.subject, one.prompt, one.object, (*statements, *questions), tuple(for_eval))
        )
    return facts


def write_questions(
    chat: Chat, facts: Sequence[PassageFact], text: str, report: Report = silent
) -> list[PassageQuestion]:
    """Step 6: a question for each fact, and some questions that need several facts.

    Parts of an answer that neither the text nor a fact contains are dropped.
    """
    questions: list[PassageQuestion] = []
    for batch in _iter_batches(facts, _BATCH_ITEMS, report, "facts", "writing questions"):
        request = _number(
            f"{one.subject} | {one.prompt.removeprefix('{}').strip()} | {one.object}" for one in batch
        )
        for new in request_json(chat, WRITE_FACT_QUESTIONS, request, FactQuestions).questions:
            if not 1 <= new.number <= len(batch):
                continue
            object = batch[new.number - 1].object
            if not contains_phrase(new.question, object):
                questions.append(PassageQuestion(new.question, (object,)))
    questions += _request_text_questions(chat, facts, text, report)
    return _deduplicate(questions, lambda one: normalize(one.question))


def _request_text_questions(
    chat: Chat, facts: Sequence[PassageFact], text: str, report: Report
) -> list[PassageQuestion]:
    questions: list[PassageQuestion] = []
    source = text if text.strip() else "\n".join(f"{one.full_prompt} {one.object}." for one in facts)
    known = " ".join([text, *(f"{one.subject} {one.object}" for one in facts)])
    parts = split_text(source)
    count = ceil(_TEXT_QUESTIONS / len(parts))
    for [part] in _iter_batches(parts, 1, report, "portions", "writing questions about the text"):
        request = f"Write {count} questions.\n\nText:\n{part}"
        for new in request_json(chat, WRITE_TEXT_QUESTIONS, request, TextQuestions).questions[:count]:
            answers = [one.rstrip(". ") for one in new.answers]
            answers = [one for one in dict.fromkeys(answers) if one and contains_phrase(known, one)]
            if answers:
                questions.append(PassageQuestion(new.question, tuple(answers)))
    return questions


def split_text(text: str) -> list[str]:
    """Split a text at the ends of paragraphs, lines or sentences into portions that fit into one request."""
    pieces = [text.strip()]
    for mark in (r"\n\s*\n", r"\n", r"(?<=[.!?。！？])\s+", r"\s+"):
        cut = [re.split(mark, piece) if len(piece) > _PORTION_CHARACTERS else [piece] for piece in pieces]
        pieces = [piece.strip() for parts in cut for piece in parts if piece.strip()]
    portions: list[str] = []
    for piece in pieces:
        if portions and len(portions[-1]) + len(piece) < _PORTION_CHARACTERS:
            portions[-1] += f"\n{piece}"
        else:
            portions.append(piece)
    return portions


def build_template(sentence: str, subject: str, object: str) -> str | None:
    """The template of a sentence: `{}` for the subject, cut before the object at its end.

    None if the sentence does not contain the subject exactly once, or does not end with the object.
    """
    sentence, object = sentence.rstrip(" .!"), object.rstrip(" .!")
    before = sentence[: len(sentence) - len(object)]
    if sentence[len(before) :].casefold() != object.casefold() or (before and before[-1].isalnum()):
        return None
    matches = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", before))
    if len(matches) != 1 or contains_phrase(before, object):
        return None
    begin, end = matches[0].span()
    template = f"{before[:begin]}{{}}{before[end:]}".strip()
    return template if template != "{}" else None


def clean_triple(one: Triple) -> Triple:
    """Remove common additions of models: a full stop after the object, and the subject or object in the relation.

    An article at the end of the relation moves to the object.
    """
    object = one.object.rstrip(".;, ") or one.object
    relation = one.relation
    if normalize(relation).startswith(normalize(one.subject) + " "):
        relation = relation[len(one.subject) :].strip()
    if normalize(relation).endswith(" " + normalize(object)):
        relation = relation[: -len(object)].strip()
    article = _TRAILING_ARTICLE.match(relation)
    if article:
        relation, object = article.group(1), f"{article.group(2)} {object}"
    return replace(one, relation=relation, object=object)


def _request_paraphrases(chat: Chat, one: Triple, count: int) -> tuple[list[str], list[str]]:
    """Templates of statements, and of questions with the beginning of their answers."""
    question_count = round(count * _QUESTION_SHARE)
    statement_count = count - question_count
    request = (
        f"Subject: {one.subject}\nObject: {one.object}\nSentence: {one.full_prompt} {one.object}\n"
        f"Write {statement_count} statements and {question_count} questions."
    )
    reply = request_json(chat, PARAPHRASE, request, Paraphrases)
    statements, questions = _build_templates(reply, one)
    if len(statements) + len(questions) < count:
        written = [*reply.statements, *(f"{pair.question} {pair.answer}" for pair in reply.questions)]
        again = (
            f"{request}\nThese you have written already; some do not hold the subject once, letter for letter, or do "
            "not end with the object. Write others:\n" + "\n".join(written)
        )
        more = request_json(chat, PARAPHRASE, again, Paraphrases)
        both = Paraphrases(
            statements=reply.statements + more.statements, questions=reply.questions + more.questions
        )
        statements, questions = _build_templates(both, one)
    return statements[:statement_count], questions[:question_count]


def _build_templates(reply: Paraphrases, one: Triple) -> tuple[list[str], list[str]]:
    """The usable templates of a reply. None equals the fact's prompt or another template."""
    statements = [build_template(statement, one.subject, one.object) for statement in reply.statements]
    questions = [_build_question_template(pair, one) for pair in reply.questions]
    seen = {normalize(one.prompt)}

    def drop_known(templates: Iterable[str | None]) -> list[str]:
        new = []
        for template in templates:
            if template is not None and normalize(template) not in seen:
                seen.add(normalize(template))
                new.append(template)
        return new

    return drop_known(statements), drop_known(questions)


def _build_question_template(pair: QuestionWithAnswer, one: Triple) -> str | None:
    """`Question: Where did {} study? Answer: At the`, the form for models without a chat template."""
    if contains_phrase(pair.question, one.object):
        return None
    return build_template(f"Question: {pair.question} Answer: {pair.answer}", one.subject, one.object)


def _format_triple(one: Triple) -> str:
    return f"{one.subject} | {one.relation} | {one.object}"


def _number(lines: Iterable[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def _identify(one: Triple) -> tuple[str, ...]:
    return normalize(one.subject), normalize(one.relation), normalize(one.object)


def _deduplicate(items: Iterable[S], identify: Callable[[S], object]) -> list[S]:
    """The first of the items with equal identity."""
    unique: dict[object, S] = {}
    for one in items:
        unique.setdefault(identify(one), one)
    return list(unique.values())


def _iter_batches(
    items: Sequence[S], size: int, report: Report, unit: str, activity: str
) -> Iterator[Sequence[S]]:
    """Batches of items. Reports the progress before each batch and at the end."""
    for begin in range(0, len(items), size):
        report(Progress(begin, len(items), unit, activity))
        yield items[begin : begin + size]
    report(Progress(len(items), len(items), unit, activity))
