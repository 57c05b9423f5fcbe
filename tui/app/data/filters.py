"""The filter language of `/`, translated to SQL.

rome paris          rows that contain both words in any field; case does not matter
"two words"         a phrase; may contain a colon
!paris              rows that do not contain the word
~^tower|bridge      a regular expression
state:failed        a word in one field; also !state:done, prompt:~^The
tokens:>1000        compare a number or a date: > >= < <= =
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
    """A field to filter and sort by: an SQL expression that does not fail on unreadable rows."""

    sql: str
    kind: Literal["text", "number", "time"] = "text"


@dataclass(frozen=True)
class Condition:
    """A part of a WHERE clause, with its parameters."""

    sql: str = ""
    parameters: tuple[str | float, ...] = ()


def parse(text: str, fields: Mapping[str, Field]) -> Condition:
    """The condition of a filter; a row must match all of its terms.

    Raises:
        InputError: an unknown field, an invalid regular expression, or a comparison without a number.
    """
    terms = (_term(term, fields) for term in _TERM.findall(text))
    conditions = [condition for condition in terms if condition.sql]
    sql = " AND ".join(condition.sql for condition in conditions)
    return Condition(sql, tuple(value for condition in conditions for value in condition.parameters))


def matches(pattern: str, text: object) -> bool:
    """The SQL function of `~`."""
    return text is not None and re.search(pattern, str(text), re.IGNORECASE) is not None


def _term(term: str, fields: Mapping[str, Field]) -> Condition:
    negated, rest = term.startswith("!"), term.removeprefix("!")
    named = _NAMED.fullmatch(rest)
    if named and named[1] not in fields:
        raise InputError(
            f"unknown field {named[1]!r}; the fields are {', '.join(fields)} (quote a word with a colon)"
        )
    value = named[2] if named else rest
    searched = [fields[named[1]]] if named else [field for field in fields.values() if field.kind == "text"]
    if not value.strip('"~'):
        return Condition()
    condition = _value(value, searched, named=bool(named))
    # An empty field does not contain the word.
    sql = f"NOT coalesce({condition.sql}, 0)" if negated else condition.sql
    return Condition(sql, condition.parameters)


def _value(value: str, searched: Sequence[Field], *, named: bool) -> Condition:
    if value.startswith("~"):
        pattern = value[1:].replace('"', "")
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{pattern!r} is not a valid regular expression: {error}") from error
        return _any([Condition(f"matches(?, {field.sql})", (pattern,)) for field in searched])
    compared = _COMPARED.fullmatch(value) if named and searched[0].kind != "text" else None
    if compared:
        return _compared(searched[0], compared[1], compared[2])
    word = value.replace('"', "")
    if named and searched[0].kind == "number":
        return _compared(searched[0], "=", word)
    escaped = re.sub(r"([%_\\])", r"\\\1", word)
    return _any([Condition(f"({field.sql}) LIKE ? ESCAPE '\\'", (f"%{escaped}%",)) for field in searched])


def _compared(field: Field, sign: str, value: str) -> Condition:
    if field.kind == "time":
        return Condition(f"({field.sql}) {sign} ?", (value,))
    try:
        return Condition(f"({field.sql}) {sign} ?", (float(value.replace(",", "")),))
    except ValueError:
        raise InputError(f"{value!r} is not a number: write e.g. 5 or >5") from None


def _any(conditions: Sequence[Condition]) -> Condition:
    sql = " OR ".join(condition.sql for condition in conditions)
    return Condition(f"({sql})", tuple(value for condition in conditions for value in condition.parameters))
