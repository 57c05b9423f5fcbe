"""Models: the list, and the detail of one model."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ....store.catalog.catalog import Catalog
from .filters import Field
from .rows import Listing, UnreadableRow, load_first_rows, parse_time

# Limit of the models that the `model` key cycles through.
_MAX_MODELS = 500


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
    """The detail of one model."""

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
    head_message: str | None


_FIELDS = {
    "name": Field("model.name"),
    "source": Field("model.source"),
    "architecture": Field("model.architecture"),
    "layers": Field(
        "CASE WHEN json_valid(model.anatomy) THEN json_extract(model.anatomy, '$.layers') END", "number"
    ),
    "params": Field("model.parameters", "number"),
    "dtype": Field("model.dtype"),
    "head": Field("model.head"),
    "when": Field("model.created", "time"),
}

MODELS = Listing(
    table="model",
    key="model.id",
    columns=(
        "model.id", "model.name", "model.architecture", "json_extract(model.anatomy, '$.layers')",
        "model.parameters", "model.dtype", "model.head",
    ),
    build=ModelRow,
    fields=_FIELDS,
)  # fmt: skip


def _build_detail(*values: Any) -> ModelDetail:
    trusted, head, created, anatomy, edits, traces, covariances, message = values[9:]
    parsed = json.loads(anatomy)
    if not isinstance(parsed, dict):
        raise ValueError("its anatomy is no object")
    rest = (bool(trusted), head, parse_time(created), parsed, edits, traces, covariances, message)
    return ModelDetail(*(*values[:9], *rest))


_COUNTS = tuple(
    f"(SELECT count(*) FROM {table} AS t WHERE t.model_id = model.id)"
    for table in ("revision", "trace", "covariance")
)

MODEL = Listing(
    table="model",
    key="model.id",
    # Without the digests of the hundreds of tensors.
    columns=(
        "model.name", "model.source", "model.source_kind", 'model."commit"', "model.path", "model.dtype",
        "model.parameters", "model.size", "model.fingerprint", "model.trust_remote_code", "model.head",
        "model.created", "model.anatomy", *_COUNTS,
        "(SELECT r.message FROM revision AS r WHERE r.id = model.head)",
    ),
    build=_build_detail,
    fields=_FIELDS,
)  # fmt: skip


def load_layer_counts(catalog: Catalog) -> dict[str, int]:
    """Name -> number of layers (0 if unreadable) of the newest models."""
    rows: list[ModelRow | UnreadableRow] = load_first_rows(catalog, MODELS, _MAX_MODELS)
    return {row.name: row.layers or 0 for row in rows if isinstance(row, ModelRow)}


def find_model_id(catalog: Catalog, name: str) -> int | None:
    """The id of a model by name; None if it does not exist."""
    with catalog.read_connection() as connection:
        row = connection.execute("SELECT id FROM model WHERE name = ?", [name]).fetchone()
    return None if row is None else int(row[0])
