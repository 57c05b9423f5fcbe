"""Covariances as the screens show them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ....store.catalog.catalog import Catalog
from .filters import Field
from .rows import Listing, convert_read_errors, parse_time

if TYPE_CHECKING:
    from ....store.catalog.tables import Covariance


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


def _view(*values: Any) -> CovarianceView:
    curve, origin, artifact, size, created = values[14:]
    rest = (json.loads(curve), json.loads(origin), artifact, size, parse_time(created))
    return CovarianceView(*(*values[:14], *rest))


COVARIANCES = Listing(
    table="covariance AS c",
    key="c.id",
    joins="LEFT JOIN model AS m ON m.id = c.model_id LEFT JOIN artifact AS a ON a.sha256 = c.artifact",
    columns=(
        "c.id", "m.name", "c.layer", "c.module", "c.width", "c.texts", "c.texts_revision", "c.tokens", "c.documents",
        "c.max_length", "c.seed", "c.dtype", "c.fingerprint", "c.tokenizer", "c.curve", "c.origin", "c.artifact",
        "coalesce(a.size, 0)", "c.created",
    ),
    build=_view,
    fields={
        "id": Field("c.id", "number"),
        "model": Field("m.name"),
        "layer": Field("c.layer", "number"),
        "texts": Field("c.texts"),
        "tokens": Field("c.tokens", "number"),
        "change": Field("CASE WHEN json_valid(c.curve) THEN json_extract(c.curve, '$[#-1].mean') END", "number"),
        "when": Field("c.created", "time"),
    },
)  # fmt: skip


def load_covariances(catalog: Catalog, ids: Sequence[int]) -> list[tuple["Covariance", str]]:
    """Whole rows, with the names of their models; those that are gone are left out.

    Raises:
        CatalogError: one of them is damaged.
    """
    import sqlmodel

    from ....store.catalog.tables import Covariance, Model

    with catalog.read() as session, convert_read_errors("the covariances"):
        query = (
            sqlmodel.select(Covariance, Model.name).join(Model).where(sqlmodel.col(Covariance.id).in_(ids))
        )
        return list(session.exec(query).all())
