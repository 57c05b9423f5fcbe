"""Check the fields of one record: what a prompt, a subject, a target must be, and misspelt names."""

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .files import Record, json_kind

# How alike (difflib's ratio) an unknown field must be to a missing one to be taken for a misspelling.
_CLOSE = 0.75


def make_template(prompt: str, subject: str) -> str:
    """The prompt with `{}` for its subject: as given if it holds `{}`, else with the subject replaced once.

    The place where the subject stands as whole words goes before one inside another word. Raises InputError.
    """
    if not subject.strip():
        raise InputError("the subject is empty: give the words of the prompt that the fact is about.")
    if not prompt.strip():
        raise InputError("the prompt is empty: give a text with {} where the subject stands.")
    template = prompt
    if "{}" not in prompt:
        whole = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
        begin = whole.start() if whole else prompt.find(subject)
        if begin < 0:
            case = " (upper and lower case differ)" if subject.casefold() in prompt.casefold() else ""
            raise InputError(
                f"the subject {subject!r} is not in the prompt {prompt!r}{case}: write it as it stands "
                "there, or put {} in its place."
            )
        before, after = prompt[:begin], prompt[begin + len(subject) :]
        template = f"{before}{{}}{after}"
    if template.count("{}") > 1:
        raise InputError(
            f"the prompt {prompt!r} holds {{}} more than once: the subject can stand in one place."
        )
    if re.search(r"[{}]", template.replace("{}", "")):
        raise InputError(f"the prompt {prompt!r} holds a brace besides {{}}: write it without.")
    return template


def clean_target(target: str, name: str = "target") -> str:
    """The object of a fact without the space around it (the space before it is added when it is tokenized).

    Raises InputError if nothing is left.
    """
    cleaned = target.strip()
    if not cleaned:
        raise InputError(f"{name} is empty: give the object as it should follow the prompt, or leave it out.")
    return cleaned


@dataclass
class Fields:
    """A record's fields, taken out one by one; what is left in the end is the fact's origin."""

    record: Record
    left: dict[str, Any]
    known: tuple[str, ...]
    format: str
    prefix: str = ""

    def wrong(self, name: str, found: object, expected: str) -> InputError:
        """What to raise when a field is of the wrong kind."""
        return InputError(
            f"{self.record.where}: field {self.prefix + name!r} is {json_kind(found)}: expected {expected}."
        )

    def value(self, *names: str) -> Any:
        """The first of `names` that is there and not null, else None."""
        found = None
        for name in names:
            value = self.left.pop(name, None)
            found = value if found is None else found
        return found

    def named(self, *names: str) -> tuple[str, Any]:
        """The first of `names` that is not null, with its value; the first name and None if all are absent."""
        found = [(name, value) for name in names if (value := self.left.pop(name, None)) is not None]
        return found[0] if found else (names[0], None)

    def need(self, name: str) -> Any:
        """The field of that name; InputError, with the name that may be meant, if it is absent or null."""
        there = list(self.left)
        value = self.value(name)
        if value is None:
            near = difflib.get_close_matches(
                name, [other for other in there if other != name], 1, _CLOSE - 0.1
            )
            hint = (
                f"is {near[0]!r} meant?" if near else f"it has {', '.join(map(repr, there)) or 'no field'}."
            )
            raise InputError(
                f"{self.record.where}: field {self.prefix + name!r} is missing (in {self.format}): {hint}"
            )
        return value

    def text(self, name: str) -> str:
        """A needed field that is a string and not empty."""
        return self.as_text(name, self.need(name))

    def as_text(self, name: str, value: object) -> str:
        """`value`, checked: a string, not empty, of characters that can be stored."""
        if not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        if not value.strip():
            raise InputError(f"{self.record.where}: field {self.prefix + name!r} is empty.")
        # SQLite cannot store half a surrogate pair, which JSON can spell.
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(
                f"{self.record.where}: field {self.prefix + name!r} holds a character that is no text."
            )
        return value

    def target(self, name: str, value: object) -> str | None:
        """A target: a string, or as in ROME's requests an object {"str": ...}; None stays None."""
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get("str")
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, str):
            raise self.wrong(name, value, 'a string or {"str": ...}')
        if value.strip():
            self.as_text(name, value)
        return clean_target(value, f"field {self.prefix + name!r}")

    def texts(self, name: str, value: object) -> list[str]:
        """A list of strings; one string counts as a list of one. In CSV a list is written as JSON."""
        value = self.listed(name, value)
        return [self.as_text(f"{name}[{at}]", item) for at, item in enumerate(value)]

    def neighbors(self, name: str, value: object, shared: str | None) -> list[dict[str, Any]]:
        """Objects {"prompt", "true"}, or prompts that share the fact's target_true."""
        found: list[dict[str, Any]] = []
        for at, item in enumerate(self.listed(name, value)):
            place = f"{name}[{at}]"
            if isinstance(item, dict):
                for part in ("prompt", "true"):
                    if part not in item:
                        raise InputError(f"{self.record.where}: field {place!r} has no {part!r}.")
                prompt = self.as_text(f"{place}.prompt", item["prompt"])
                true = self.as_text(f"{place}.true", item["true"]).strip()
                found.append({**item, "prompt": prompt, "true": true})
            elif shared is None:
                raise InputError(
                    f"{self.record.where}: field {place!r} has no answer: give {{'prompt', 'true'}}, or a "
                    "target_true that all neighbors share."
                )
            else:
                found.append({"prompt": self.as_text(place, item), "true": shared})
        return found

    def questions(self, name: str, value: object) -> list[dict[str, Any]]:
        """Objects {"prompt", "answers"}; one answer may stand without its list."""
        found: list[dict[str, Any]] = []
        for at, item in enumerate(self.listed(name, value)):
            place = f"{name}[{at}]"
            if not isinstance(item, dict):
                raise self.wrong(place, item, 'an object {"prompt", "answers"}')
            for part in ("prompt", "answers"):
                if not item.get(part):
                    raise InputError(f"{self.record.where}: field {place!r} has no {part!r}.")
            answers = [one.strip() for one in self.texts(f"{place}.answers", item["answers"])]
            found.append(
                {**item, "prompt": self.as_text(f"{place}.prompt", item["prompt"]), "answers": answers}
            )
        return found

    def references(self, name: str, value: object) -> list[dict[str, Any]]:
        """Texts, or objects {"text", "name"} where the name says of whom they are."""
        found: list[dict[str, Any]] = []
        for at, item in enumerate(self.listed(name, value)):
            place = f"{name}[{at}]"
            given = item if isinstance(item, dict) else {"text": item}
            about = given.get("name")
            if about is not None:
                about = self.as_text(f"{place}.name", about)
            found.append({"text": self.as_text(f"{place}.text", given.get("text")), "name": about})
        return found

    def listed(self, name: str, value: object) -> list[Any]:
        """A list as it is; a string as JSON if it begins like a list, else a list of one; None is empty."""
        if value is None:
            return []
        if isinstance(value, str):
            if not value.lstrip().startswith("["):
                return [value]
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{self.record.where}: field {name!r} begins like a list but is not JSON ({error})."
                ) from error
        if not isinstance(value, list):
            raise self.wrong(name, value, "a list")
        return value

    def rest(self) -> dict[str, Any]:
        """What nobody took. Raises InputError if one of them is a known field misspelt."""
        for name in self.left:
            absent = [known for known in self.known if known not in self.record.fields]
            near = difflib.get_close_matches(str(name), absent, 1, _CLOSE)
            if near:
                raise InputError(f"{self.record.where}: unknown field {name!r}: is {near[0]!r} meant?")
        return self.left
