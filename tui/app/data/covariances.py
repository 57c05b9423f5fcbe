"""Covariances: the list, and the data of each."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .filters import Field
from .rows import list_records


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


COVARIANCES = list_records(
    CovarianceView,
    "covariance AS c",
    {"model": "m.name", "size": "coalesce(a.size, 0)"},
    joins="LEFT JOIN model AS m ON m.id = c.model_id LEFT JOIN artifact AS a ON a.sha256 = c.artifact",
    fields={
        "id": Field("c.id", "number"),
        "model": Field("m.name"),
        "layer": Field("c.layer", "number"),
        "texts": Field("c.texts"),
        "tokens": Field("c.tokens", "number"),
        "change": Field(
            "CASE WHEN json_valid(c.curve) THEN json_extract(c.curve, '$[#-1].mean') END", "number"
        ),
        "when": Field("c.created", "time"),
    },
)
