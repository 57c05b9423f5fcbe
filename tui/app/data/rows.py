"""Read the rows of a list: a list of 100,000 rows costs only its visible rows, and an unreadable row hides no other.

A list has all keys in order, and reads rows when they become visible. It uses plain SQL because SQLModel loads slowly.
"""

import json
import sqlite3
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_origin

from ....store.catalog.catalog import Catalog
from ...actions.damage import READ_ERRORS
from .filters import Condition, Field, matches, parse

Key = int | str
T = TypeVar("T")
Built_co = TypeVar("Built_co", covariant=True)


@dataclass(frozen=True)
class UnreadableRow:
    """A row whose content is invalid."""

    id: Key
    reason: str


@dataclass(frozen=True)
class Query:
    """A filter text, and a field to sort by (empty: newest first)."""

    filter: str = ""
    sort: str = ""
    descending: bool = False

    @property
    def is_default(self) -> bool:
        """Whether it selects all rows in the default order."""
        return not self.filter.strip() and not self.sort


@dataclass(frozen=True)
class Listing(Generic[Built_co]):
    """How to list one type of row (models, traces, ..). `key`, `columns` and the filter fields are SQL expressions;
    `build(*columns)` makes the data class of a row."""

    table: str
    key: str
    columns: tuple[str, ...]
    build: Callable[..., Built_co]
    fields: Mapping[str, Field] = field(default_factory=dict)
    joins: str = ""
    # The default order, descending.
    order: str = ""
    scope: Condition = field(default_factory=Condition)

    def select(self, where: str) -> str:
        """The query for the rows `where`."""
        return f"SELECT {self.key}, {', '.join(self.columns)} FROM {self.table} {self.joins} WHERE {where}"


def list_records(
    record: type[T],
    table: str,
    sql: Mapping[str, str] = MappingProxyType({}),
    *,
    complete: Callable[[T], T] = lambda row: row,
    **options: Any,
) -> Listing[T]:
    """The listing of a table with one column per field of the data class `record`.

    `sql` holds the expressions of fields that are not columns. A field that is a dict, list or tuple is stored as JSON.
    `complete` converts a record that was read. `options` are the other fields of the listing.
    """
    alias = table.rsplit(maxsplit=1)[-1]
    columns = tuple(sql.get(one.name, f'{alias}."{one.name}"') for one in fields(record))  # type: ignore[arg-type]
    converters = [_converter(one.type) for one in fields(record)]  # type: ignore[arg-type]

    def build(*values: Any) -> T:
        return complete(record(*(convert(one) for convert, one in zip(converters, values, strict=True))))

    return Listing(table, f"{alias}.id", columns, build, **options)


def _converter(kind: Any) -> Callable[[Any], Any]:
    """The conversion of a column to a field of the type `kind`."""
    origin = get_origin(kind)
    if origin in (dict, list, tuple):
        return partial(_parse_json, origin)
    if kind in (datetime, datetime | None):
        return parse_time if kind is datetime else parse_optional_time
    return bool if kind is bool else lambda value: value


def _parse_json(kind: Callable[[Any], Any], text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict if kind is dict else list):
        raise ValueError(f"JSON of the wrong type: {text[:40]}")
    return kind(value)


def select_keys(
    catalog: Catalog, listing: Listing[Any], query: Query = Query(), limit: int | None = None
) -> Sequence[Key]:
    """The keys of the rows that match a query, in its order.

    Raises:
        InputError: the filter is invalid.
        CatalogError: the catalog cannot be read.
    """
    condition = parse(query.filter, listing.fields)
    conditions = [part for part in (listing.scope, condition) if part.sql]
    parameters: list[Any] = [value for part in conditions for value in part.parameters]
    order = f"{listing.order or listing.key} DESC"
    if query.sort:
        order = f"{listing.fields[query.sort].sql} {'DESC' if query.descending else 'ASC'}, {order}"
    # The default query reads only the index of the key.
    joins = "" if query.is_default else listing.joins
    where = f"WHERE {' AND '.join(part.sql for part in conditions)}" if conditions else ""
    sql = f"SELECT {listing.key} FROM {listing.table} {joins} {where} ORDER BY {order}"
    if limit is not None:
        sql, parameters = f"{sql} LIMIT ?", [*parameters, limit]
    with catalog.read_connection() as connection:
        connection.create_function("matches", 2, matches, deterministic=True)
        keys = [key for (key,) in connection.execute(sql, parameters)]
    return array("q", keys) if keys and all(isinstance(key, int) for key in keys) else keys


def load_rows(catalog: Catalog, listing: Listing[T], keys: Sequence[Key]) -> dict[Key, T | UnreadableRow]:
    """The rows of at most some hundred keys; unreadable ones as UnreadableRow."""
    rows: dict[Key, T | UnreadableRow] = {}
    marks = ", ".join("?" * len(keys))
    with catalog.read_connection() as connection:
        try:
            for key, *values in connection.execute(listing.select(f"{listing.key} IN ({marks})"), list(keys)):
                rows[key] = listing.build(*values)
        except READ_ERRORS:
            return _load_one_by_one(connection, listing, keys)
        except sqlite3.OperationalError as error:
            if not _is_row_error(error):
                raise
            return _load_one_by_one(connection, listing, keys)
    return rows


def load_row(catalog: Catalog, listing: Listing[T], key: Key) -> T | UnreadableRow | None:
    """One row; None if it does not exist."""
    return load_rows(catalog, listing, [key]).get(key)


def load_first_rows(catalog: Catalog, listing: Listing[T], limit: int) -> list[T | UnreadableRow]:
    """The first rows in the default order, for short lists."""
    keys = list(select_keys(catalog, listing, limit=limit))
    rows = load_rows(catalog, listing, keys)
    return [rows[key] for key in keys if key in rows]


def parse_time(text: str | None) -> datetime:
    """Parse a time of the catalog. Raises ValueError, TypeError."""
    if text is None:
        raise ValueError("a time is missing")
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def parse_optional_time(text: str | None) -> datetime | None:
    """The same, or None."""
    return None if text is None else parse_time(text)


def _load_one_by_one(
    connection: sqlite3.Connection, listing: Listing[T], keys: Sequence[Key]
) -> dict[Key, T | UnreadableRow]:
    rows: dict[Key, T | UnreadableRow] = {}
    for key in keys:
        try:
            row = connection.execute(listing.select(f"{listing.key} = ?"), [key]).fetchone()
            if row is not None:
                rows[key] = listing.build(*row[1:])
        except (*READ_ERRORS, sqlite3.OperationalError) as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_row_error(error):
                raise
            first = (str(error).splitlines() or [""])[0]
            rows[key] = UnreadableRow(key, f"this row is unreadable ({type(error).__name__}: {first})")
    return rows


def _is_row_error(error: sqlite3.OperationalError) -> bool:
    """Whether the content of a row (`malformed JSON`) caused the error, not the file, its lock or the disk."""
    return error.sqlite_errorcode == sqlite3.SQLITE_ERROR
