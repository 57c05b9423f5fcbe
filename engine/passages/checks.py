"""What is wrong with a passage's facts, each problem at its fact, before anything is edited. Needs no model.

An error is a fact that cannot be written, or of which nothing could be told afterwards; a warning is one that is likely
to fail. `key_checks` has what only the tokenizer and the model can tell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .facts import Fact, alike

_SEVERAL = 2
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """A problem of fact number `fact` (from 0). `kind` is the same for the same problem of another fact; `others` are
    the facts of the passage that it has the problem with. The message is a sentence that says what to do."""

    fact: int
    severity: Severity
    kind: str
    message: str
    others: tuple[int, ...] = ()


def check_facts(facts: Sequence[Fact], text: str = "") -> list[Problem]:
    """All problems that the words show, by fact. `text` is the passage that they are from, if it is known."""
    found = [problem for at, fact in enumerate(facts) for problem in _of_one(at, fact)]
    found += _not_in_text(facts, text) if text.strip() else ()
    found += [*_same_prompts(facts), *_held_out_but_trained(facts), *_wordings_of_others(facts)]
    return in_order(found)


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """By fact, errors first."""
    return sorted(problems, key=lambda one: (one.fact, one.severity != "error"))


def named(at: int) -> str:
    """How a message names another fact."""
    return f"fact {at + 1}"


def quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")


def _of_one(at: int, fact: Fact) -> Iterator[Problem]:
    for what, words in (("subject", fact.subject), ("object", fact.object)):
        if not words.strip():
            yield Problem(at, "error", f"empty-{what}", f"the {what} is empty: write it out")
            return
    for template in (fact.prompt, *fact.train_paraphrases, *fact.eval_paraphrases):
        yield from _of_template(at, fact, template)
    if fact.sentence:
        yield from _of_sentence(at, fact)
    if not fact.train_paraphrases:
        why = "the fact will hold in the one wording that is trained: add others (~)"
        yield Problem(at, "warning", "no-wordings", why)
    if not fact.eval_paraphrases:
        why = "nothing will show whether the fact holds in other words: add wordings that are only asked (?)"
        yield Problem(at, "warning", "no-held-out", why)


def _of_template(at: int, fact: Fact, template: str) -> Iterator[Problem]:
    count = template.count("{}")
    if count != 1:
        message = f"{quoted(template)} holds {{}} {count} times: it stands once, where the subject does"
        yield Problem(at, "error", "template", message)
    elif _holds(template.replace("{}", " "), fact.object):
        message = f"{quoted(template)} holds the object already: the fact would be answered by copying"
        yield Problem(at, "warning", "object-in-prompt", message)


def _of_sentence(at: int, fact: Fact) -> Iterator[Problem]:
    for what, words in (("subject", fact.subject), ("object", _without_article(fact.object))):
        if words in fact.sentence:
            continue
        case = ", in other upper and lower case" if _holds(fact.sentence, words) else ""
        where = f"in its sentence {quoted(fact.sentence)}"
        message = f"the {what} {quoted(words)} does not stand letter for letter {where}{case}: compare them"
        yield Problem(at, "warning", f"{what}-not-in-sentence", message)


def _not_in_text(facts: Sequence[Fact], text: str) -> Iterator[Problem]:
    """Small models copy the examples of their instructions, and large ones know things of their own."""
    for at, fact in enumerate(facts):
        words = _without_article(fact.object)
        # One that names the objects of several facts need not stand there as a whole.
        parts = sum(_holds(fact.object, _without_article(one.object)) for one in facts if one is not fact)
        if words.strip() and parts < _SEVERAL and not _holds(text, words):
            message = f"the object {quoted(words)} does not stand in the passage: compare them"
            yield Problem(at, "warning", "object-not-in-text", message)


def _without_article(object: str) -> str:
    """An article that the split moved to the object need not stand beside it."""
    return " ".join(word for word in object.split() if alike(word) not in ("the", "a", "an")) or object


def _same_prompts(facts: Sequence[Fact]) -> Iterator[Problem]:
    for group in _grouped([(alike(fact.text), at) for at, fact in enumerate(facts)]).values():
        for at in group:
            others = tuple(other for other in group if other != at)
            differing = [other for other in others if alike(facts[other].object) != alike(facts[at].object)]
            if differing:
                message = (
                    f"{named(differing[0])} has the same prompt {quoted(facts[at].text)} and another object: no edit "
                    "can tell them apart; give each a relation of its own"
                )
                yield Problem(at, "error", "same-prompt", message, others)
            elif others:
                message = f"{named(others[0])} says the same: leave one out"
                yield Problem(at, "error", "twice", message, others)


def _held_out_but_trained(facts: Sequence[Fact]) -> Iterator[Problem]:
    """A wording that is only to be asked, and that is trained on somewhere in the passage."""
    trained = _grouped(
        [(text, at) for at, fact in enumerate(facts) for text in _filled(fact, fact.train_paraphrases)]
    )
    for text, at in ((alike(fact.text), at) for at, fact in enumerate(facts)):
        trained.setdefault(text, []).append(at)
    for at, fact in enumerate(facts):
        for template, text in zip(fact.eval_paraphrases, _filled(fact, fact.eval_paraphrases), strict=True):
            where = tuple(dict.fromkeys(trained.get(text, ())))
            if where:
                by = "this fact" if at in where else named(where[0])
                message = (
                    f"the held-out wording {quoted(template)} is trained on by {by}: it would not show whether the "
                    "fact holds in other words"
                )
                yield Problem(
                    at, "error", "held-out-trained", message, tuple(other for other in where if other != at)
                )


def _wordings_of_others(facts: Sequence[Fact]) -> Iterator[Problem]:
    """One text that two facts continue with different objects, besides two equal prompts."""
    pairs = [
        (text, at)
        for at, fact in enumerate(facts)
        for text in (alike(fact.text), *_filled(fact, (*fact.train_paraphrases, *fact.eval_paraphrases)))
    ]
    prompts = [alike(fact.text) for fact in facts]
    for text, group in _grouped(pairs).items():
        for at in dict.fromkeys(group):
            others = tuple(
                other
                for other in dict.fromkeys(group)
                if alike(facts[other].object) != alike(facts[at].object)
                and {prompts[at], prompts[other]} != {text}
            )
            if others:
                message = (
                    f"{named(others[0])} has the wording {quoted(text)} too, with another object: no edit can tell "
                    "them apart; reword one"
                )
                yield Problem(at, "error", "same-wording", message, others)


def _filled(fact: Fact, templates: Sequence[str]) -> list[str]:
    return [alike(template.replace("{}", fact.subject)) for template in templates]


def _grouped(pairs: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for key, at in pairs:
        groups.setdefault(key, []).append(at)
    return groups


def _holds(text: str, words: str) -> bool:
    """Whether words stand in a text as whole words, whatever their case."""
    return f" {_bare(words)} " in f" {_bare(text)} "


def _bare(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
