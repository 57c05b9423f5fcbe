"""The meaning of a record as Fact rows: ROME's known facts, CounterFact, zsRE, MQuAKE and plain records."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...prompts import clean_target, fill_prompt, make_template
from ..catalog.tables import Fact
from ..errors import InputError
from .files import Record, json_kind

# Similarity (difflib's ratio) at which an unknown field counts as a misspelling of a missing one.
_MIN_SIMILARITY = 0.75
# The fields of a plain record, each with its names in published files and in earlier versions.
_PLAIN = {
    "subject": (),
    "prompt": (),
    "target_true": ("ground_truth",),
    "target_new": (),
    "train_paraphrases": ("wordings",),
    "eval_paraphrases": ("paraphrases", "paraphrase_prompts", "rephrase_prompt"),
    "neighbors": ("neighbours", "neighborhood_prompts"),
    "negations": (),
    "portability": (),
    "generation_prompts": (),
    "references": (),
}
_FIELDS = {
    "known facts": ("subject", "prompt", "attribute", "template"),
    "CounterFact": ("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts", "generation_prompts"),
    "MQuAKE": ("requested_rewrite", "questions", "new_answer", "new_answer_alias"),
    "zsRE": ("subject", "src", "rephrase", "alt", "answers", "loc", "loc_ans"),
    "plain": (*_PLAIN, *(other for others in _PLAIN.values() for other in others)),
}


@dataclass
class Fields:
    """The fields of a record. Each read removes a field; the remaining ones become the fact's origin."""

    record: Record
    unread: dict[str, Any]
    known: tuple[str, ...]
    format: str
    prefix: str = ""

    def wrong_type(self, name: str, value: object, expected: str) -> InputError:
        """The error for a field of the wrong type."""
        return InputError(f"field {self.prefix + name!r} is {json_kind(value)}: expected {expected}.")

    def value(self, *names: str) -> Any:
        """The first of `names` that is not null, or None."""
        return self.named(*names)[1]

    def named(self, *names: str) -> tuple[str, Any]:
        """The first of `names` that is not null, with its value; the first name and None if all are absent."""
        found = [(name, value) for name in names if (value := self.unread.pop(name, None)) is not None]
        return found[0] if found else (names[0], None)

    def require(self, name: str) -> Any:
        """A required field. Raises InputError, with a similar name as a hint, if it is absent or null."""
        present = list(self.unread)
        value = self.value(name)
        if value is None:
            similar = difflib.get_close_matches(
                name, [other for other in present if other != name], 1, _MIN_SIMILARITY - 0.1
            )
            existing = ", ".join(map(repr, present)) or "no field"
            hint = f"is {similar[0]!r} meant?" if similar else f"it has {existing}."
            raise InputError(f"field {self.prefix + name!r} is missing (in {self.format}): {hint}")
        return value

    def text(self, name: str) -> str:
        """A required string that is not empty."""
        return self.as_text(name, self.require(name))

    def as_text(self, name: str, value: object) -> str:
        """`value`, if it is a non-empty string that can be stored."""
        if not isinstance(value, str):
            raise self.wrong_type(name, value, "a string")
        if not value.strip():
            raise InputError(f"field {self.prefix + name!r} is empty.")
        # SQLite cannot store half a surrogate pair, which JSON can spell.
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"field {self.prefix + name!r} contains a character that is not text.")
        return value

    def target(self, name: str, value: object) -> str | None:
        """A target: a string, or an object {"str": ...} as in ROME's requests, or None."""
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get("str")
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, str):
            raise self.wrong_type(name, value, 'a string or {"str": ...}')
        if value.strip():
            self.as_text(name, value)
        return clean_target(value, f"field {self.prefix + name!r}")

    def texts(self, name: str, value: object) -> list[str]:
        """A list of strings, or one string. A CSV cell holds a list as JSON."""
        value = self.listed(name, value)
        return [self.as_text(f"{name}[{at}]", item) for at, item in enumerate(value)]

    def neighbors(self, name: str, value: object, shared: str | None) -> list[dict[str, Any]]:
        """Objects {"prompt", "true"}, or prompts whose answer is `shared`, the fact's target_true."""
        found: list[dict[str, Any]] = []
        for at, item in enumerate(self.listed(name, value)):
            place = f"{name}[{at}]"
            if isinstance(item, dict):
                prompt, true = self.parts(place, item, "prompt", "true")
                true = self.as_text(f"{place}.true", true).strip()
                found.append({**item, "prompt": self.as_text(f"{place}.prompt", prompt), "true": true})
            elif shared is None:
                raise InputError(
                    f"field {place!r} has no answer: give {{'prompt', 'true'}}, or a "
                    "target_true that all neighbors share."
                )
            else:
                found.append({"prompt": self.as_text(place, item), "true": shared})
        return found

    def parts(self, place: str, item: dict[str, Any], *names: str) -> list[Any]:
        """The named parts of an object. Raises InputError if one is absent or empty."""
        for name in names:
            if not item.get(name):
                raise InputError(f"field {place!r} has no {name!r}.")
        return [item[name] for name in names]

    def questions(self, name: str, value: object) -> list[dict[str, Any]]:
        """Objects {"prompt", "answers"}; `answers` is a list or one string."""
        found: list[dict[str, Any]] = []
        for at, item in enumerate(self.listed(name, value)):
            place = f"{name}[{at}]"
            if not isinstance(item, dict):
                raise self.wrong_type(place, item, 'an object {"prompt", "answers"}')
            prompt, answers = self.parts(place, item, "prompt", "answers")
            answers = [one.strip() for one in self.texts(f"{place}.answers", answers)]
            found.append({**item, "prompt": self.as_text(f"{place}.prompt", prompt), "answers": answers})
        return found

    def references(self, name: str, value: object) -> list[dict[str, Any]]:
        """Texts, or objects {"text", "name"} with the subject of the text as its name."""
        found: list[dict[str, Any]] = []
        for at, item in enumerate(self.listed(name, value)):
            place = f"{name}[{at}]"
            entry = item if isinstance(item, dict) else {"text": item}
            name_of_subject = entry.get("name")
            if name_of_subject is not None:
                name_of_subject = self.as_text(f"{place}.name", name_of_subject)
            found.append({"text": self.as_text(f"{place}.text", entry.get("text")), "name": name_of_subject})
        return found

    def listed(self, name: str, value: object) -> list[Any]:
        """The items of a list. A string is JSON if it begins with a bracket, otherwise one item; None is empty."""
        if value is None:
            return []
        if isinstance(value, str):
            if not value.lstrip().startswith("["):
                return [value]
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"field {name!r} begins with a bracket but is not JSON ({error})."
                ) from error
        if not isinstance(value, list):
            raise self.wrong_type(name, value, "a list")
        return value

    def remaining(self) -> dict[str, Any]:
        """The remaining fields. Raises InputError if one is a misspelled known field."""
        for name in self.unread:
            missing = [known for known in self.known if known not in self.record.fields]
            similar = difflib.get_close_matches(str(name), missing, 1, _MIN_SIMILARITY)
            if similar:
                raise InputError(f"unknown field {name!r}: is {similar[0]!r} meant?")
        return self.unread


def detect_format(records: list[Record]) -> str:
    """The format of a file, from its first record."""
    first = records[0].fields
    if "requested_rewrite" in first:
        return "MQuAKE" if isinstance(first["requested_rewrite"], list) else "CounterFact"
    if "src" in first:
        return "zsRE"
    if "attribute" in first:
        return "known facts"
    return "plain"


def parse_record(record: Record, format: str) -> list[Fact]:
    """The facts of one record, unsaved. Only MQuAKE has several per record.

    Raises InputError with the file, the record, the field and the expectation.
    """
    reader = Fields(record, dict(record.fields), _FIELDS[format], format)
    try:
        return _READERS[format](reader)
    except InputError as error:
        raise InputError(f"{record.where}: {error}") from error


def _known_fact(fields: Fields) -> list[Fact]:
    subject = fields.text("subject").strip()
    template = fields.value("template")
    prompt = fields.value("prompt")
    # The prompt has priority over the template: the published traces run it, and 240 of the 605 published prompts
    # contain more than their template.
    if prompt is None:
        prompt = template if template is not None else fields.require("prompt")
    attribute = fields.target("attribute", fields.value("attribute"))
    prompt = make_template(fields.as_text("prompt", prompt), subject)
    differs = template is not None and template != prompt
    origin = fields.remaining() | ({"template": template} if differs else {})
    return [Fact(subject=subject, prompt=prompt, target_true=attribute, origin=origin)]


def _counterfact(fields: Fields) -> list[Fact]:
    """CounterFact and MultiCounterFact, which share their format."""
    fact = _rewrite(fields, fields.require("requested_rewrite"), "requested_rewrite")
    fact.eval_paraphrases = fields.texts("paraphrase_prompts", fields.value("paraphrase_prompts"))
    fact.neighbors = fields.neighbors(
        "neighborhood_prompts", fields.value("neighborhood_prompts"), fact.target_true
    )
    fact.generation_prompts = fields.texts("generation_prompts", fields.value("generation_prompts"))
    fact.origin = fact.origin | fields.remaining()
    return [fact]


def _mquake(fields: Fields) -> list[Fact]:
    """One fact per rewrite. The multi-hop questions depend on all rewrites; the first fact holds them."""
    rewrites = fields.listed("requested_rewrite", fields.require("requested_rewrite"))
    if not rewrites:
        raise InputError("field 'requested_rewrite' is empty: expected at least one rewrite.")
    facts = [_rewrite(fields, one, f"requested_rewrite[{at}]") for at, one in enumerate(rewrites)]
    questions = fields.texts("questions", fields.require("questions"))
    answers = [fields.text("new_answer"), *fields.texts("new_answer_alias", fields.value("new_answer_alias"))]
    facts[0].portability = [{"prompt": question, "answers": answers} for question in questions]
    facts[0].origin = facts[0].origin | fields.remaining()
    return facts


def _rewrite(fields: Fields, rewrite: object, name: str) -> Fact:
    """A `requested_rewrite` of CounterFact or MQuAKE."""
    if not isinstance(rewrite, dict):
        raise fields.wrong_type(name, rewrite, "an object with prompt, subject and targets")
    known = ("prompt", "subject", "target_new", "target_true")
    inner = Fields(Record("", rewrite), dict(rewrite), known, fields.format, prefix=f"{name}.")
    subject = inner.text("subject").strip()
    prompt = make_template(inner.text("prompt"), subject)
    # Published reference texts are indexed by the Wikidata id of the target.
    new_id = target.get("id") if isinstance(target := rewrite.get("target_new"), dict) else None
    new = inner.target("target_new", inner.require("target_new"))
    true = inner.target("target_true", inner.require("target_true"))
    origin = inner.remaining() | ({"target_new_id": new_id} if isinstance(new_id, str) else {})
    return Fact(subject=subject, prompt=prompt, target_true=true, target_new=new, origin=origin)


def _zsre(fields: Fields) -> list[Fact]:
    subject = fields.text("subject").strip()
    prompt = make_template(fields.text("src"), subject)
    new = fields.target("alt", fields.require("alt"))
    true = fields.target("answers", fields.value("answers"))
    paraphrases = fields.texts("rephrase", fields.value("rephrase"))
    neighbors = []
    loc = fields.value("loc")
    if loc is not None:
        # The published evaluation adds the question mark that the data lacks.
        question = fields.as_text("loc", loc).rstrip("?") + "?"
        answer = fields.target("loc_ans", fields.require("loc_ans"))
        neighbors = [{"prompt": question, "true": answer}]
    fact = Fact(subject=subject, prompt=prompt, target_true=true, target_new=new, neighbors=neighbors)
    fact.eval_paraphrases, fact.origin = paraphrases, fields.remaining()
    return [fact]


def _plain(fields: Fields) -> list[Fact]:
    subject = fields.text("subject").strip()
    prompt = make_template(fields.text("prompt"), subject)
    true = fields.target("target_true", fields.value("target_true", *_PLAIN["target_true"]))
    new = fields.target("target_new", fields.value("target_new"))
    train, evaluation = (
        fields.texts(*fields.named(name, *_PLAIN[name])) for name in ("train_paraphrases", "eval_paraphrases")
    )
    neighbors = fields.neighbors("neighbors", fields.value("neighbors", *_PLAIN["neighbors"]), true)

    def prompts(name: str) -> list[str]:
        return filled(fields.texts(name, fields.value(name)))

    def filled(texts: list[str]) -> list[str]:
        """Whole prompts; a template is filled with the subject."""
        return [fill_prompt(text, subject) for text in texts]

    fact = Fact(
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        train_paraphrases=[make_template(text, subject) for text in train],
        eval_paraphrases=filled(evaluation),
        neighbors=neighbors,
        negations=prompts("negations"),
        portability=fields.questions("portability", fields.value("portability")),
        generation_prompts=prompts("generation_prompts"),
        references=fields.references("references", fields.value("references")),
    )
    fact.origin = fields.remaining()
    return [fact]


_READERS: dict[str, Callable[[Fields], list[Fact]]] = {
    "known facts": _known_fact,
    "CounterFact": _counterfact,
    "MQuAKE": _mquake,
    "zsRE": _zsre,
    "plain": _plain,
}
