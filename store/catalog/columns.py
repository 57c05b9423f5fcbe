"""Kinds of columns that several tables share, and how their constraints are named."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint
from sqlmodel import Field, SQLModel

# Before any table: SQLite can only drop a constraint that has a name, and every later migration may need to.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# For tables whose ids people type: SQLite would give the id of a removed last row to the next one.
IDS_NEVER_REUSED = {"sqlite_autoincrement": True}


def now() -> datetime:
    """This moment, aware, in UTC."""
    return datetime.now(UTC)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A CHECK that `column` holds one of `values` (or NULL where the column may)."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def created_now() -> datetime:
    """When the row was made."""
    return Field(default_factory=now, index=True)


def json_dict() -> Any:
    """A JSON object, empty by default."""
    return Field(default_factory=dict, sa_type=JSON)


def json_list() -> Any:
    """A JSON list, empty by default."""
    return Field(default_factory=list, sa_type=JSON)


def child_of(target: str) -> Any:
    """The key of the row that this one is part of; it goes when that goes."""
    return Field(foreign_key=target, ondelete="CASCADE", index=True)
