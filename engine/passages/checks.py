"""Checks of a passage's facts that need only their text. Imports no torch.

An error marks a fact that cannot be written, or whose edit could not be evaluated. A warning marks a fact whose edit is
likely to fail. `key_checks` has the checks that need the tokenizer and the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ...passage_facts import PassageFact, normalize
from ..evaluation.matching import contains_phrase

# An object that joins the objects of this many other facts need not be in the passage.
_JOINED_FACTS = 2


@dataclass(frozen=True)
class Problem:
    """A problem of fact number `fact` (from 0). `message` is a sentence that says how to solve it.

    `kind` identifies the kind of problem. `others` are the numbers of the other facts that are involved.
    """

    fact: int
    severity: Literal["error", "warning"]
    kind: str
    message: str
    others: tuple[int, ...] = ()


def check_facts(facts: Sequence[PassageFact], text: str = "") -> list[Problem]:
    """All problems that the text of the facts shows, sorted by fact. `text` is the passage, or empty."""
    problems = [problem for at, fact in enumerate(facts) for problem in _check_fact(at, fact)]
    problems += _check_objects_in_text(facts, text) if text.strip() else ()
    problems += [*_check_prompts(facts), *_check_eval_paraphrases(facts), *_check_shared_paraphrases(facts)]
    return sort_problems(problems)


def sort_problems(problems: Sequence[Problem]) -> list[Problem]:
    """Problems by fact, errors first."""
    return sorted(problems, key=lambda one: (one.fact, one.severity != "error"))


def quote(text: str, length: int = 80) -> str:
    """A text for a message: one line in quotes, control characters escaped, at most `length` characters."""
    line = " ".join(text.split())
    return repr(line if len(line) <= length else f"{line[: length - 1]}…")


def _check_fact(at: int, fact: PassageFact) -> Iterator[Problem]:
    for template in (fact.prompt, *fact.train_paraphrases, *fact.eval_paraphrases):
        if _contains(template.replace("{}", " "), fact.object):
            message = f"{quote(template)} already contains the object, so the model could answer by copying; reword it"
            yield Problem(at, "warning", "object-in-prompt", message)
    if not fact.train_paraphrases:
        message = "there are no training paraphrases, so the edit will hold for one prompt only; add some (~)"
        yield Problem(at, "warning", "no-train-paraphrases", message)
    if not fact.eval_paraphrases:
        message = (
            "there are no evaluation paraphrases, so generalization cannot be measured; add prompts that are never "
            "trained on (?)"
        )
        yield Problem(at, "warning", "no-eval-paraphrases", message)


def _check_objects_in_text(facts: Sequence[PassageFact], text: str) -> Iterator[Problem]:
    """Small models copy the examples of their instructions, and large models add facts that the text does not state."""
    for at, fact in enumerate(facts):
        words = _without_article(fact.object)
        parts = sum(_contains(fact.object, _without_article(one.object)) for one in facts if one is not fact)
        if parts < _JOINED_FACTS and not _contains(text, words):
            message = f"the object {quote(words)} is not in the passage; compare them"
            yield Problem(at, "warning", "object-not-in-text", message)


def _without_article(object: str) -> str:
    """The object without articles. Extraction may move an article from the relation to the object."""
    return " ".join(word for word in object.split() if normalize(word) not in ("the", "a", "an")) or object


def _check_prompts(facts: Sequence[PassageFact]) -> Iterator[Problem]:
    for group in _group([(normalize(fact.full_prompt), at) for at, fact in enumerate(facts)]).values():
        for at in group:
            others = tuple(other for other in group if other != at)
            conflicting = [other for other in others if not _has_same_object(facts[other], facts[at])]
            if conflicting:
                message = (
                    f"fact {conflicting[0] + 1} has the same prompt {quote(facts[at].full_prompt)} and another object, "
                    "so no edit can distinguish them; give each fact another relation"
                )
                yield Problem(at, "error", "same-prompt", message, others)
            elif others:
                message = f"fact {others[0] + 1} is the same fact; remove one"
                yield Problem(at, "error", "duplicate", message, others)


def _check_eval_paraphrases(facts: Sequence[PassageFact]) -> Iterator[Problem]:
    """Evaluation paraphrases that a fact of the passage trains on."""
    trained = _group(
        [(text, at) for at, fact in enumerate(facts) for text in _fill_all(fact, fact.train_paraphrases)]
        + [(normalize(fact.full_prompt), at) for at, fact in enumerate(facts)]
    )
    for at, fact in enumerate(facts):
        for template, text in zip(fact.eval_paraphrases, _fill_all(fact, fact.eval_paraphrases), strict=True):
            where = tuple(dict.fromkeys(trained.get(text, ())))
            if where:
                message = (
                    f"fact {where[0] + 1} trains on the evaluation paraphrase {quote(template)}, so it cannot measure "
                    "generalization; reword it"
                )
                others = tuple(other for other in where if other != at)
                yield Problem(at, "error", "eval-paraphrase-trained", message, others)


def _check_shared_paraphrases(facts: Sequence[PassageFact]) -> Iterator[Problem]:
    """Texts that two facts continue with different objects, except two equal prompts."""
    prompts = [normalize(fact.full_prompt) for fact in facts]
    pairs = [
        (text, at)
        for at, fact in enumerate(facts)
        for text in (prompts[at], *_fill_all(fact, (*fact.train_paraphrases, *fact.eval_paraphrases)))
    ]
    for text, group in _group(pairs).items():
        for at in dict.fromkeys(group):
            others = tuple(
                other
                for other in dict.fromkeys(group)
                if not _has_same_object(facts[other], facts[at]) and {prompts[at], prompts[other]} != {text}
            )
            if others:
                message = (
                    f"fact {others[0] + 1} also has the paraphrase {quote(text)}, with another object, so no edit can "
                    "distinguish them; reword one"
                )
                yield Problem(at, "error", "same-paraphrase", message, others)


def _has_same_object(one: PassageFact, other: PassageFact) -> bool:
    return normalize(one.object) == normalize(other.object)


def _fill_all(fact: PassageFact, templates: Sequence[str]) -> list[str]:
    return [normalize(fact.fill(template)) for template in templates]


def _group(pairs: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for key, at in pairs:
        groups.setdefault(key, []).append(at)
    return groups


def _contains(text: str, words: str) -> bool:
    return contains_phrase(text, words, ignore_punctuation=True)
