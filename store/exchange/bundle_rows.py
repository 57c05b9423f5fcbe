"""The rows and artifacts of a model's history: rows as JSON, and the checks that an import makes.

The rows of a bundle must satisfy the rules of the catalog's own rows. Its artifacts must fit the rows and the model.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from sqlmodel import Session, SQLModel, col, select
from typing_extensions import TypedDict

from ..catalog.artifacts import sha256_of
from ..catalog.catalog import Catalog
from ..catalog.tables import (
    Artifact,
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
)  # fmt: skip
from ..errors import InputError
from ..history.history import parents_first
from ..validation import (
    CurvePoint,
    Digest,
    Integer,
    Moment,
    Number,
    Request,
    RevisionId,
    describe,
    rename_fields,
    rename_requests,
)
from . import bundle_archive as archive
from .covariance import check_second_moment, matrix_name, unpack_triangle
from .upgrade import upgrade_evaluation, upgrade_passage

# In the order in which they can be added. Jobs, moves of the head and publications stay in their own catalog.
TABLES: tuple[type[SQLModel], ...] = (
    FactSet, Fact, Covariance, Revision, Trace, TraceResult, AverageEffect, Sweep, SweepTrial, Evaluation, Passage,
)  # fmt: skip
Rows = Mapping[type[SQLModel], list[Any]]
# Names of columns in bundles of earlier versions.
_NAMES: dict[type[SQLModel], dict[str, str]] = {
    Fact: {"wordings": "train_paraphrases", "paraphrases": "eval_paraphrases"},
    Revision: {"figures": "statistics"},
    TraceResult: {"ids": "token_ids", "finished": "is_complete", "skipped": "skip_reason"},
    Sweep: {"planned": "trial_count"},
    SweepTrial: {"refused": "error"},
}
# A covariance's file holds the sums, probes, convergence, and the sums after whole blocks.
_MAX_ARRAYS = 16

Grid = list[list[Number | None]]


class _Scores(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    window: Integer
    scores: Grid


def _check_layers(hparams: dict[str, Any]) -> dict[str, Any]:
    layers = hparams.get("layers", [])
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ValueError("layers must be a list of whole numbers")
    return hparams


def _check_statistics(statistics: dict[str, Any]) -> dict[str, Any]:
    sizes = TypeAdapter(dict[str, dict[str, Number]]).validate_python(statistics.get("delta", {}))
    if not all("relative" in size for size in sizes.values()):
        raise ValueError("each matrix of the delta must have a relative norm")
    return statistics


def _check_origin(origin: dict[str, Any]) -> dict[str, Any]:
    if type(origin.get("extends", 0)) is not int:
        raise ValueError("extends must be the number of a covariance")
    return origin


# Columns that must satisfy more than their type.
_TYPES: dict[type[SQLModel], dict[str, Any]] = {
    Revision: {
        "id": RevisionId,
        "kind": Annotated[str, Field(pattern="^(base|edit|revert)$")],
        "fingerprint": Digest,
        "requests": list[Request],
        "hparams": Annotated[dict[str, Any], AfterValidator(_check_layers)],
        "statistics": Annotated[dict[str, Any], AfterValidator(_check_statistics)],
    },
    Covariance: {
        "curve": list[CurvePoint],
        "origin": Annotated[dict[str, Any], AfterValidator(_check_origin)],
    },
    TraceResult: {"scores": dict[str, _Scores], "estimate": dict[str, Grid]},
}


def table_name(table: type[SQLModel]) -> str:
    """The table's name in the catalog and in a bundle."""
    return str(table.__tablename__)


def export_rows(session: Session, model: Model, *, covariances: bool) -> dict[str, list[dict[str, Any]]]:
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
        found[child] = _children(session, child, key, [parent.id for parent in parents])
    sets = {row.fact_set_id for table in (Trace, Sweep, Evaluation) for row in found[table]} - {None}
    found[FactSet] = [session.get_one(FactSet, id) for id in sorted(sets)]
    found[Fact] = _children(session, Fact, Fact.fact_set_id, sorted(sets))
    return {table_name(table): [row.model_dump() for row in found[table]] for table in TABLES}


def _children(session: Session, child: Any, key: Any, parents: Sequence[Any]) -> list[Any]:
    rows: list[Any] = []
    for parent in parents:
        rows += session.exec(select(child).where(col(key) == parent).order_by(col(child.id))).all()
    return rows


def parse_rows(records: Mapping[str, Any], layers: int) -> dict[type[SQLModel], list[Any]]:
    """The rows of a bundle for a model with `layers` layers, unsaved, with their ids in the exporting catalog.

    Raises InputError for a row that violates a rule of the catalog.
    """
    names = [table_name(table) for table in TABLES]
    if set(records) != set(names):
        raise InputError(
            f"the rows must be of {', '.join(names)}; here they are of {', '.join(map(repr, records))[:200]}"
        )
    try:
        json.dumps(records, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("a text in the rows holds half of a surrogate pair") from error
    rows = {table: _parse_table(table, records[table_name(table)]) for table in TABLES}
    _check_keys(rows)
    _check_tree(rows[Revision])
    for row in (*rows[Covariance], *rows[AverageEffect]):
        _require(0 <= row.layer < layers, row, f"is of layer {row.layer}, but the model has {layers} layers")
    for row in rows[TraceResult]:
        _check_result(row, layers)
    return rows


def _parse_table(table: type[SQLModel], records: Any) -> list[Any]:
    if not isinstance(records, list):
        raise InputError(f"{table_name(table)} is not a list")
    try:
        checked = _adapter(table).validate_python([_upgrade(table, record) for record in records])
    except ValidationError as error:
        raise InputError(f"{table_name(table)}, {describe(error)}") from error
    return [table(**dict(row)) for row in checked]


@cache
def _adapter(table: type[SQLModel]) -> TypeAdapter[list[Any]]:
    """Validates the records of a table: all columns, no other field, strict types."""
    types = _TYPES.get(table, {})
    fields: dict[str, Any] = {
        name: (types.get(name) or _strict(field.annotation, is_key=name == "id"), ...)
        for name, field in table.model_fields.items()
    }
    model = create_model(table_name(table), __config__=ConfigDict(extra="forbid"), **fields)
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def _strict(annotation: Any, *, is_key: bool = False) -> Any:
    """The annotation without conversions between types, within the limits of SQLite. A key is never None."""
    exact = {
        int: Integer,
        bool: Annotated[bool, Field(strict=True)],
        float: Annotated[float, Field(strict=True, allow_inf_nan=False)],
        datetime: Moment,
    }
    if isinstance(annotation, UnionType):
        parts = [part for part in get_args(annotation) if not (is_key and part is type(None))]
        union = _strict(parts[0])
        for part in parts[1:]:
            union = union | part
        return union
    if get_origin(annotation) is list:
        return list[_strict(get_args(annotation)[0])]  # type: ignore[misc]
    return exact.get(annotation, annotation)


def _upgrade(table: type[SQLModel], record: Any) -> Any:
    """A record of an earlier version in the current form."""
    record = rename_fields(record, _NAMES.get(table, {}))
    if not isinstance(record, dict):
        return record
    if table is Trace and "swap" not in record:
        # The corruption was a sentence of the protocol.
        swap = "auto" if record.get("noise") == "swap" else None
        record |= {"replace": "in place of" in str(record.get("protocol")), "swap": swap}
    if "requests" in record:
        record["requests"] = rename_requests(record["requests"])
    if table is Evaluation:
        record = upgrade_evaluation(record)
    return upgrade_passage(record) if table is Passage else record


def _check_keys(rows: Rows) -> None:
    """Each id occurs once, and each key names a row of the bundle."""
    ids = {table: {row.id for row in found} for table, found in rows.items()}
    for table, found in rows.items():
        if len(ids[table]) != len(found):
            raise InputError(f"{table_name(table)} has an id twice")
    for child, key, parent in (
        (Fact, "fact_set_id", FactSet), (TraceResult, "trace_id", Trace), (AverageEffect, "trace_id", Trace),
        (SweepTrial, "sweep_id", Sweep), (Trace, "revision", Revision), (Sweep, "revision", Revision),
        (Evaluation, "revision", Revision), (Trace, "fact_set_id", FactSet), (Sweep, "fact_set_id", FactSet),
        (Evaluation, "fact_set_id", FactSet), (Passage, "revision", Revision),
    ):  # fmt: skip
        optional = {None} if key == "fact_set_id" and child is not Fact else set()
        for row in rows[child]:
            is_known = getattr(row, key) in ids[parent] | optional
            _require(is_known, row, f"names a {table_name(parent)} that is not in the bundle")
    for row in rows[Passage]:
        _require(ids[Revision].issuperset(row.revisions), row, "names a revision that is not in the bundle")


def _check_tree(revisions: Sequence[Revision]) -> None:
    """The revisions are one tree, and each revert names an ancestor."""
    by_id = {row.id: row for row in revisions}
    if [row.kind for row in revisions].count("base") != 1:
        raise InputError("the revisions must have exactly one base")
    for row in revisions:
        for kind, is_valid, complaint in (
            ("base", row.parent is None, "must have a parent, unless it is the base"),
            ("edit", row.delta is not None, "must have a delta if it is an edit, else none"),
            ("revert", row.reverts is not None, "must name the edit that it reverts"),
        ):
            _require((row.kind == kind) == is_valid, row, complaint)
    if len(parents_first(revisions)) != len(revisions):
        raise InputError("all revisions must descend from the base")
    for row in revisions:
        if row.reverts is not None:
            is_ancestor = row.reverts in _ancestors(row, by_id) and by_id[row.reverts].kind != "base"
            _require(is_ancestor, row, "must revert an edit among its ancestors")


def _ancestors(row: Revision, by_id: Mapping[str, Revision]) -> set[str]:
    found: set[str] = set()
    parent = row.parent
    while parent is not None:
        found.add(parent)
        parent = by_id[parent].parent
    return found


def _check_result(row: TraceResult, layers: int) -> None:
    tokens = len(row.tokens)
    _require(0 <= row.subject_begin <= row.subject_end <= tokens, row, "has a subject outside its tokens")
    grids = {kind: table["scores"] for kind, table in row.scores.items()}
    for kind, grid in (*grids.items(), *row.estimate.items()):
        has_shape = len(grid) == tokens and all(len(cells) == layers for cells in grid)
        _require(has_shape, row, f"has {kind[:20]!r} scores of another shape than ({tokens}, {layers})")


def _require(condition: bool, row: Any, complaint: str) -> None:
    if not condition:
        raise InputError(f"{table_name(type(row))} {row.id} {complaint}")


def check_bundle(bundle: archive.Bundle, rows: Rows, model: Model) -> str:
    """Compare the rows with the artifacts and the model. Returns the head revision of the exporting catalog.

    Raises InputError if the rows have another base, or if artifacts are missing or unreferenced.
    """
    (base,) = [row for row in rows[Revision] if row.kind == "base"]
    if base.fingerprint != model.fingerprint:
        raise InputError(f"its base is not that of {model.name}")
    referenced = {row.delta for row in rows[Revision] if row.delta} | {
        row.artifact for row in rows[Covariance]
    }
    if referenced != set(bundle.artifacts):
        raise InputError("its artifacts are not those that its rows name")
    for row in rows[Covariance]:
        expected = (matrix_name(model, row.layer), model.anatomy["key_width"], model.fingerprint)
        if (row.module, row.width, row.fingerprint) != expected:
            raise InputError(f"covariance {row.id} is of other keys than those of {model.name}")
    head = bundle.about.get("head")
    if not isinstance(head, str) or head not in {row.id for row in rows[Revision]}:
        raise InputError("its head is not one of its revisions")
    return head


def store_artifacts(catalog: Catalog, bundle: archive.Bundle, rows: Rows, model: Model) -> list[Artifact]:
    """Store each artifact after it was compared with its row. Returns the rows of the artifacts, unsaved.

    Raises InputError for the first that does not fit; the next garbage collection removes the earlier ones.
    """
    deltas = {row.delta for row in rows[Revision] if row.delta}
    covariances = {row.artifact: row for row in rows[Covariance]}
    stored = []
    for digest in bundle.artifacts:

        def write(path: Path, digest: str = digest) -> None:
            with bundle.artifact(digest) as source:
                archive.copy(source, path)
            if sha256_of(path) != digest:
                raise InputError(f"{bundle.path} changed during the import.")
            if digest in deltas:
                _check_delta(path, bundle.path, digest, model)
            if digest in covariances:
                _check_covariance(path, bundle.path, covariances[digest], model)

        stored.append(catalog.artifacts.put_writer(write))
    return stored


def _check_delta(path: Path, bundle: Path, digest: str, model: Model) -> None:
    """Pairs `NAME.A` `[rank, in]` and `NAME.B` `[out, rank]`, float32 and finite, of matrices of the model."""
    from safetensors import SafetensorError, safe_open

    where = f"{bundle}: the delta {digest[:12]}"
    try:
        with safe_open(path, "numpy") as file:
            keys = set(file.keys())
            names = {key[:-2] for key in keys}
            if not keys or keys != {f"{name}.{side}" for name in names for side in "AB"}:
                raise InputError(f"{where} holds something other than pairs of factors.")
            for name in sorted(names):
                if name not in model.tensors:
                    raise InputError(f"{where} changes {name[:100]!r}, but {model.name} has no such tensor.")
                b, a = file.get_tensor(f"{name}.B"), file.get_tensor(f"{name}.A")
                if {a.dtype, b.dtype} != {np.dtype(np.float32)} or a.ndim != 2 or b.ndim != 2:
                    raise InputError(f"{where} holds factors of {name} that are not float32 matrices.")
                if b.shape[1] != a.shape[0] or not (np.isfinite(a).all() and np.isfinite(b).all()):
                    raise InputError(f"{where} holds factors of {name} that do not fit, or are not finite.")
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{where} cannot be read ({error}).") from error


def _check_covariance(path: Path, bundle: Path, row: Covariance, model: Model) -> None:
    """The upper triangle of the sum of k k^T, float64, and few other arrays."""
    from safetensors import SafetensorError, safe_open

    where = f"{bundle}: the covariance of layer {row.layer}"
    cells = row.width * (row.width + 1) // 2
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            if "total" not in names or len(names) > _MAX_ARRAYS:
                raise InputError(f"{where} holds other arrays than a covariance.")
            total = file.get_tensor("total")
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{where} cannot be read ({error}).") from error
    if total.dtype != np.float64 or total.shape != (cells,):
        raise InputError(f"{where} holds {total.dtype} {total.shape}, not float64 ({cells},).")
    check_second_moment(bundle, unpack_triangle(total, row.width), row.tokens, row.width, model.name)
