"""Covariances as the screens show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlmodel
from sqlalchemy import Select, select

from ...store.catalog import Catalog
from ...store.tables import Artifact, Covariance, Model
from .rows import Hurt, columns, read_row, read_rows, readable

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
    documents: int | None
    max_length: int | None
    seed: int | None
    dtype: str
    fingerprint: str
    tokenizer: str | None
    curve: list[dict[str, Any]]
    origin: dict[str, Any]
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


def rows_of(catalog: Catalog, ids: Sequence[int]) -> list[tuple[Covariance, str]]:
    """Whole rows, with the names of their models; those that are gone are left out.

    Raises:
        CatalogError: one of them is damaged.
    """
    with catalog.read() as session, readable("the covariances"):
        query = (
            sqlmodel.select(Covariance, Model.name).join(Model).where(sqlmodel.col(Covariance.id).in_(ids))
        )
        return list(session.exec(query).all())


def _query() -> Select[Any]:
    return (
        select(
            _C.id, _M.name, _C.layer, _C.module, _C.width, _C.texts, _C.texts_revision, _C.tokens, _C.documents,
            _C.max_length, _C.seed, _C.dtype, _C.fingerprint, _C.tokenizer, _C.curve, _C.origin, _C.artifact, _A.size,
            _C.created,
        )
        .join(Model.__table__, _M.id == _C.model_id)  # type: ignore[attr-defined]
        .join(Artifact.__table__, _A.sha256 == _C.artifact)  # type: ignore[attr-defined]
    )  # fmt: skip
