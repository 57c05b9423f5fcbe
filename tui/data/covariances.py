"""Covariances as the screens show them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from ...store.catalog import Catalog
from ...store.tables import Artifact, Covariance, Model
from .rows import Hurt, columns, read_row, read_rows

_C, _M, _A = columns(Covariance), columns(Model), columns(Artifact)


@dataclass(frozen=True)
class CovarianceView:
    """One covariance; the list and the detail show the same row."""

    id: int
    model: str
    layer: int
    module: str
    width: int
    texts: str
    texts_revision: str
    tokens: int
    documents: int
    max_length: int
    seed: int
    dtype: str
    finished: bool
    artifact: str
    size: int
    created: datetime


def list_covariances(catalog: Catalog) -> list[CovarianceView | Hurt]:
    """The covariances, newest first."""
    with catalog.read() as session:
        return read_rows(session, _query(), _C.id, CovarianceView)


def covariance(catalog: Catalog, id: int) -> CovarianceView | Hurt | None:
    """One covariance."""
    with catalog.read() as session:
        return read_row(session, _query(), _C.id, id, CovarianceView)


def _query() -> Select[Any]:
    return (
        select(
            _C.id, _M.name, _C.layer, _C.module, _C.width, _C.texts, _C.texts_revision, _C.tokens, _C.documents,
            _C.max_length, _C.seed, _C.dtype, _C.finished, _C.artifact, _A.size, _C.created,
        )
        .join(Model.__table__, _M.id == _C.model_id)  # type: ignore[attr-defined]
        .join(Artifact.__table__, _A.sha256 == _C.artifact)  # type: ignore[attr-defined]
    )  # fmt: skip
