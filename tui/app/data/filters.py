"""What stands behind `/`: words that a row must hold, as SQL.

rome paris          rows that hold both, in any of their fields, whatever the case
"two words"         as it stands, also with a colon in it
!paris              rows that do not hold it
~^tower|bridge      a regular expression
state:failed        the same of one field; also !state:done, prompt:~^The
tokens:>1000        a number or a date in a field, compared: > >= < <= =
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ....store.errors import InputError

_TERM = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')
_NAMED = re.compile(r"([a-z]+):(.*)", re.DOTALL)
_COMPARED = re.compile(r"(>=|<=|>|<|=)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Field:
    """Something that a list can be filtered and sorted by: an SQL expression that no damaged row makes fail."""

    sql: str
    kind: Literal["text", "number", "time"] = "text"


@dataclass(frozen=True)
class Condition:
    """A part of a WHERE, with its parameters."""

    sql: str = ""
    parameters: tuple[str | float, ...] = ()


def parse(text: str, fields: Mapping[str, Field]) -> Condition:
    """The rows that a filter leaves; all of its words must hold.

    Raises:
        InputError: a field that is not there, a regular expression that is none, a comparison with no number.
    """
    found = [_term(term, fields) for term in _TERM.findall(text)]
    found = [condition for condition in found if condition.sql]
    sql = " AND ".join(condition.sql for condition in found)
    return Condition(sql, tuple(value for condition in found for value in condition.parameters))


def matches(pattern: str, text: object) -> bool:
    """What `~` calls in SQL for each row."""
    return text is not None and re.search(pattern, str(text), re.IGNORECASE) is not None


def _term(term: str, fields: Mapping[str, Field]) -> Condition:
    negated, rest = term.startswith("!"), term.removeprefix("!")
    named = _NAMED.fullmatch(rest)
    if named and named[1] not in fields:
        raise InputError(
            f"there is no field {named[1]!r} here; there are {', '.join(fields)} (quote a word with a colon)"
        )
    value = named[2] if named else rest
    of = [fields[named[1]]] if named else [field for field in fields.values() if field.kind == "text"]
    if not value.strip('"~'):
        return Condition()
    condition = _value(value, of, named=bool(named))
    # A field that is empty does not hold the word.
    sql = f"NOT coalesce({condition.sql}, 0)" if negated else condition.sql
    return Condition(sql, condition.parameters)


def _value(value: str, of: Sequence[Field], *, named: bool) -> Condition:
    if value.startswith("~"):
        pattern = value[1:].replace('"', "")
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{pattern!r} is no regular expression: {error}") from error
        return _any([Condition(f"matches(?, {field.sql})", (pattern,)) for field in of])
    compared = _COMPARED.fullmatch(value) if named and of[0].kind != "text" else None
    if compared:
        return _compared(of[0], compared[1], compared[2])
    word = value.replace('"', "")
    if named and of[0].kind == "number":
        return _compared(of[0], "=", word)
    escaped = re.sub(r"([%_\\])", r"\\\1", word)
    return _any([Condition(f"({field.sql}) LIKE ? ESCAPE '\\'", (f"%{escaped}%",)) for field in of])


def _compared(field: Field, sign: str, value: str) -> Condition:
    if field.kind == "time":
        return Condition(f"({field.sql}) {sign} ?", (value,))
    try:
        return Condition(f"({field.sql}) {sign} ?", (float(value.replace(",", "")),))
    except ValueError:
        raise InputError(f"{value!r} is no number: write e.g. 5 or >5") from None


def _any(conditions: Sequence[Condition]) -> Condition:
    sql = " OR ".join(condition.sql for condition in conditions)
    return Condition(f"({sql})", tuple(value for condition in conditions for value in condition.parameters))
