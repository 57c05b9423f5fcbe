"""Read rows so that one that is damaged does not hide the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, SQLModel

from ...store.errors import CatalogError

NEWEST = 500

# What damaged JSON, dates and shapes raise: from the column types, from SQLite's JSON functions, from our own look.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, DBAPIError)

T = TypeVar("T")


@dataclass(frozen=True)
class Hurt:
    """A row that is there and cannot be read."""

    id: int | str
    reason: str


def columns(table: type[SQLModel]) -> Any:
    """The columns of a table, for reads that need only some of them."""
    return table.__table__.c  # type: ignore[attr-defined]


def read_rows(
    session: Session,
    query: Select[Any],
    key: Any,
    build: Callable[..., T],
    limit: int = NEWEST,
    order: Any = None,
) -> list[T | Hurt]:
    """`build(*row)` of each row, newest (highest `order`, else `key`) first; a Hurt for each that cannot be read."""
    connection = session.connection()
    newest = query.order_by((key if order is None else order).desc()).limit(limit)
    try:
        return [build(*row) for row in connection.execute(newest)]
    except UNREADABLE:
        keys = [row[0] for row in connection.execute(newest.with_only_columns(key))]
        return [found for one in keys if (found := read_row(session, query, key, one, build)) is not None]


def read_row(
    session: Session, query: Select[Any], key: Any, value: int | str, build: Callable[..., T]
) -> T | Hurt | None:
    """`build(*row)` of the row with that key; None if there is none, a Hurt if it cannot be read."""
    try:
        row = session.connection().execute(query.where(key == value)).first()
        return build(*row) if row is not None else None
    except UNREADABLE as error:
        first = (str(error.orig) if isinstance(error, DBAPIError) else str(error)).splitlines() or [""]
        return Hurt(value, f"this row is damaged and cannot be read ({type(error).__name__}: {first[0]})")


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Where the store reads whole rows for us: a damaged one becomes a sentence.

    Raises:
        CatalogError: one of the rows that were needed is damaged.
    """
    try:
        yield
    except UNREADABLE as error:
        raise CatalogError(
            f"{what} holds a damaged row ({error}): restore a backup of the catalog."
        ) from error
