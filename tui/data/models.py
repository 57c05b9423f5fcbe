"""Models as the screens show them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from ...store.catalog import Catalog
from ...store.tables import Covariance, Model, Revision, Trace
from .rows import Hurt, columns, read_row, read_rows

_M = columns(Model)


@dataclass(frozen=True)
class ModelRow:
    """One line of the list."""

    id: int
    name: str
    architecture: str
    layers: int | None
    parameters: int
    dtype: str
    head: str | None


@dataclass(frozen=True)
class ModelDetail:
    """All that is known of one model."""

    name: str
    source: str
    source_kind: str
    commit: str | None
    path: str
    dtype: str
    parameters: int
    size: int
    fingerprint: str
    trust_remote_code: bool
    head: str | None
    created: datetime
    anatomy: dict[str, Any]
    edits: int
    traces: int
    covariances: int


def list_models(catalog: Catalog) -> list[ModelRow | Hurt]:
    """The models, newest first."""
    layers = func.json_extract(_M.anatomy, "$.layers")
    query = select(_M.id, _M.name, _M.architecture, layers, _M.parameters, _M.dtype, _M.head)
    with catalog.read() as session:
        return read_rows(session, query, _M.id, ModelRow)


def model_detail(catalog: Catalog, id: int) -> ModelDetail | Hurt | None:
    """One model; not its digests, of which there are hundreds."""
    counts = [
        select(func.count()).where(table.model_id == _M.id).scalar_subquery()
        for table in (columns(Revision), columns(Trace), columns(Covariance))
    ]
    query = select(
        _M.name, _M.source, _M.source_kind, _M.commit, _M.path, _M.dtype, _M.parameters, _M.size, _M.fingerprint,
        _M.trust_remote_code, _M.head, _M.created, _M.anatomy, *counts,
    )  # fmt: skip
    with catalog.read() as session:
        return read_row(session, query, _M.id, id, _detail)


def model_names(catalog: Catalog) -> dict[str, int]:
    """The names of all models and how many layers each has (0 if that cannot be read)."""
    return {row.name: row.layers or 0 for row in list_models(catalog) if isinstance(row, ModelRow)}


def _detail(*values: Any) -> ModelDetail:
    detail = ModelDetail(*values)
    if not isinstance(detail.anatomy, dict):
        raise ValueError("its anatomy is no object")
    return detail
