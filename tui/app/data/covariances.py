"""Covariances: the list, and the data of each."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .filters import Field
from .rows import Listing, parse_time


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


def _build_view(*values: Any) -> CovarianceView:
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
    build=_build_view,
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
