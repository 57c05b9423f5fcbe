"""Rows of a model's history as JSON, and back: what was read from a file is held to what the catalog's own rows are."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import JSON, Boolean, Float, Integer
from sqlmodel import Session, SQLModel, col, select
from sqlmodel.sql.sqltypes import UTCDateTime

from ..catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Fact,
    FactSet,
    Model,
    Passage,
    Revision,
    Sweep,
    SweepTrial,
    Trace,
    TraceResult,
)
from ..errors import InputError
from .manifest import is_request

# In the order in which they can be added. Jobs, moves of the head and publications are this catalog's own business.
TABLES: tuple[type[SQLModel], ...] = (
    FactSet, Fact, Covariance, Revision, Trace, TraceResult, AverageEffect, Sweep, SweepTrial, Evaluation, Passage,
)  # fmt: skip
Row = TypeVar("Row", bound=SQLModel)
_LARGEST = 2**63 - 1
_ID = re.compile(r"[0-9a-f]{10}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def name_of(table: type[SQLModel]) -> str:
    """The table's name in the catalog and in a bundle."""
    return str(table.__tablename__)


def as_json(session: Session, model: Model, *, covariances: bool) -> dict[str, list[dict[str, Any]]]:
    """All rows of a model's history by table, in the order of their ids."""
    found: dict[type[SQLModel], list[Any]] = {}
    for table in (Revision, Covariance, Trace, Sweep, Evaluation, Passage):
        query = select(table).where(table.model_id == model.id)
        order = (col(table.created), col(table.id)) if table is Revision else (col(table.id),)
        found[table] = list(session.exec(query.order_by(*order)))
    if not covariances:
        found[Covariance] = []
    for child, key, parents in (
        (TraceResult, TraceResult.trace_id, found[Trace]),
        (AverageEffect, AverageEffect.trace_id, found[Trace]),
        (SweepTrial, SweepTrial.sweep_id, found[Sweep]),
    ):
        found[child] = _children(session, child, key, [one.id for one in parents])
    sets = {one.fact_set_id for table in (Trace, Sweep, Evaluation) for one in found[table]} - {None}
    found[FactSet] = [session.get_one(FactSet, id) for id in sorted(sets)]
    found[Fact] = _children(session, Fact, Fact.fact_set_id, sorted(sets))
    return {name_of(table): [_record(row) for row in found[table]] for table in TABLES}


def _children(session: Session, child: Any, key: Any, parents: Sequence[Any]) -> list[Any]:
    rows: list[Any] = []
    for parent in parents:
        rows += session.exec(select(child).where(col(key) == parent).order_by(col(child.id))).all()
    return rows


def _record(row: SQLModel) -> dict[str, Any]:
    values = {column.name: getattr(row, column.name) for column in row.__table__.columns}  # type: ignore[attr-defined]
    return {name: one.isoformat() if isinstance(one, datetime) else one for name, one in values.items()}


def from_json(rows: Mapping[str, Any], layers: int) -> dict[type[SQLModel], list[Any]]:
    """The rows of a bundle, unsaved, with the ids that they had where they come from.

    Raises:
        InputError: a row that this program would not have written for a model of so many layers, and why.
    """
    names = [name_of(table) for table in TABLES]
    if set(rows) != set(names):
        raise InputError(
            f"the rows must be of {', '.join(names)}; here they are of {', '.join(map(repr, rows))[:200]}"
        )
    try:
        json.dumps(rows, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("a text in the rows holds half a character") from error
    found: dict[type[SQLModel], list[Any]] = {}
    for table in TABLES:
        records = rows[name_of(table)]
        _must(isinstance(records, list), name_of(table), "is no list")
        found[table] = [
            _row(table, record, f"{name_of(table)} {number}") for number, record in enumerate(records)
        ]
    _check(found, layers)
    return found


def _upgraded(table: type[SQLModel], record: Any) -> Any:
    """A record of a bundle that was written before a trace had the columns `replace` and `swap`."""
    if table is not Trace or not isinstance(record, dict) or "swap" in record:
        return record
    swap = "auto" if record.get("noise") == "swap" else None
    return record | {"replace": "in place of" in str(record.get("protocol")), "swap": swap}


def _row(table: type[Row], record: Any, where: str) -> Row:
    record = _upgraded(table, record)
    columns = {column.name: column for column in table.__table__.columns}  # type: ignore[attr-defined]
    _must(
        isinstance(record, dict) and set(record) == set(columns),
        where,
        "has other columns than the catalog's",
    )
    values = {}
    for name, column in columns.items():
        value = record[name]
        if value is None:
            _must(column.nullable, where, f"has no {name}")
        elif isinstance(column.type, JSON):
            kind = table.model_fields[name].default_factory
            _must(type(value) is kind, where, f"has a {name} of another form")
        elif isinstance(column.type, UTCDateTime):
            value = _moment(value, where, name)
        else:
            value = _scalar(value, column.type, where, name)
        values[name] = value
    return table(**values)


def _moment(value: Any, where: str, name: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} has a {name} that is no time") from error
    _must(found.tzinfo is not None, where, f"has a {name} without a zone")
    return found


def _scalar(value: Any, kind: Any, where: str, name: str) -> Any:
    if isinstance(kind, Boolean):
        right = type(value) is bool
    elif isinstance(kind, Integer):
        right = type(value) is int and abs(value) <= _LARGEST
    elif isinstance(kind, Float):
        right = type(value) in (int, float) and math.isfinite(value)
    else:
        right = isinstance(value, str)
    _must(right, where, f"has a {name} of another form")
    return value


def _check(found: Mapping[type[SQLModel], list[Any]], layers: int) -> None:
    """What single columns cannot tell: keys, the shape of lists, the tree of revisions."""
    for table, rows in found.items():
        ids = [row.id for row in rows]
        _must(None not in ids and len(set(ids)) == len(ids), name_of(table), "has an id twice or not at all")
    there = {table: {row.id for row in rows} for table, rows in found.items()}
    for child, key, parent in (
        (Fact, "fact_set_id", FactSet), (TraceResult, "trace_id", Trace), (AverageEffect, "trace_id", Trace),
        (SweepTrial, "sweep_id", Sweep), (Trace, "revision", Revision), (Sweep, "revision", Revision),
        (Evaluation, "revision", Revision), (Trace, "fact_set_id", FactSet), (Sweep, "fact_set_id", FactSet),
        (Evaluation, "fact_set_id", FactSet), (Passage, "revision", Revision),
    ):  # fmt: skip
        optional = key == "fact_set_id" and child is not Fact
        for row in found[child]:
            known = getattr(row, key) in there[parent] or (optional and getattr(row, key) is None)
            _must(known, f"{name_of(child)} {row.id}", f"names a {name_of(parent)} that is not there")
    for row in found[Passage]:
        known = all(isinstance(one, str) and one in there[Revision] for one in row.revisions)
        _must(known, f"passage {row.id}", "names a revision that is not there")
    _check_tree(found[Revision])
    for row in found[Revision]:
        _check_revision(row)
    for row in found[Covariance]:
        _must(0 <= row.layer < layers, f"covariance {row.id}", "is of a layer that the model has not")
        _must(_points(row.curve), f"covariance {row.id}", "has a curve of another form")
        extended = type(row.origin.get("extends", 0)) is int
        _must(extended, f"covariance {row.id}", "extends what is no covariance")
    for row in found[TraceResult]:
        _check_result(row, layers)
    for row in found[AverageEffect]:
        _must(0 <= row.layer < layers, f"average_effect {row.id}", "is of a layer that the model has not")


def _check_tree(revisions: Sequence[Revision]) -> None:
    by_id = {row.id: row for row in revisions}
    _must([row.kind for row in revisions].count("base") == 1, "revision", "must have one base")
    for row in revisions:
        where = f"revision {row.id[:20]!r}"
        _must(_ID.fullmatch(row.id), where, "has an id of another form")
        _must((row.kind == "base") == (row.parent is None), where, "must have a parent, and the base none")
        _must(
            row.kind in ("base", "edit", "revert"), where, f"is of the kind {row.kind[:20]!r}, which is none"
        )
        _must(
            (row.kind == "edit") == (row.delta is not None),
            where,
            "must have a delta if it is an edit, else none",
        )
        _must(
            (row.kind == "revert") == (row.reverts is not None),
            where,
            "must name what it reverts, or nothing",
        )
    children: dict[str | None, list[str]] = {}
    for row in revisions:
        children.setdefault(row.parent, []).append(row.id)
    reached = list(children[None])
    for one in reached:  # grows while it is read
        reached += children.get(one, [])
    _must(len(reached) == len(revisions), "revision", "must all come from the base")
    for row in revisions:
        if row.reverts is not None:
            right = row.reverts in _ancestors(row, by_id) and by_id[row.reverts].kind != "base"
            _must(right, f"revision {row.id}", "reverts the base, or what does not come before it")


def _ancestors(row: Revision, by_id: Mapping[str, Revision]) -> set[str]:
    found: set[str] = set()
    at = row.parent
    while at is not None:
        found.add(at)
        at = by_id[at].parent
    return found


def _check_revision(row: Revision) -> None:
    where = f"revision {row.id}"
    _must(_FINGERPRINT.fullmatch(row.fingerprint), where, "has no fingerprint")
    for request in row.requests:
        _must(is_request(request), where, "has a request of another form")
    layers = row.hparams.get("layers", [])
    _must(
        isinstance(layers, list) and all(type(one) is int for one in layers),
        where,
        "has layers of another form",
    )
    _must(_texts(row.contexts) and all(type(one) is int for one in row.covariances), where, "has other lists")
    sizes = row.statistics.get("delta", {})
    right = isinstance(sizes, dict) and all(
        isinstance(one, dict) and all(_number(value) for value in one.values()) and "relative" in one
        for one in sizes.values()
    )
    _must(right, where, "has figures of another form")


def _check_result(row: TraceResult, layers: int) -> None:
    where = f"trace_result {row.id}"
    tokens = len(row.tokens)
    _must(_texts(row.tokens), where, "has tokens that are no texts")
    _must(all(type(one) is int for one in row.token_ids), where, "has ids that are no numbers")
    _must(0 <= row.subject_begin <= row.subject_end <= tokens, where, "has a subject outside its tokens")
    for kind, table in row.scores.items():
        right = isinstance(table, dict) and type(table.get("window")) is int
        _must(
            right and _grid(table.get("scores"), tokens, layers), where, f"has {kind[:20]!r} of another shape"
        )
    for kind, grid in row.estimate.items():
        _must(_grid(grid, tokens, layers), where, f"has an estimate of {kind[:20]!r} of another shape")


def _grid(rows: Any, height: int, width: int) -> bool:
    return (
        isinstance(rows, list)
        and len(rows) == height
        and all(
            isinstance(row, list) and len(row) == width and all(cell is None or _number(cell) for cell in row)
            for row in rows
        )
    )


def _points(curve: Iterable[Any]) -> bool:
    names = ("tokens", "mean", "largest")
    return all(isinstance(one, dict) and all(_number(one.get(name)) for name in names) for one in curve)


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(one, str) for one in values)


def _must(so: object, where: str, complaint: str) -> None:
    if not so:
        raise InputError(f"{where} {complaint}")
