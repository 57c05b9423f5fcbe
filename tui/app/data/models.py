"""Models: the list, and the detail of one model."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ....store.catalog.catalog import Catalog
from .filters import Field
from .rows import UnreadableRow, list_records, load_first_rows

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
    revisions: int
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

MODELS = list_records(
    ModelRow, "model", {"layers": "json_extract(model.anatomy, '$.layers')"}, fields=_FIELDS
)
_COUNTS = {
    f"{table}s": f"(SELECT count(*) FROM {table} AS t WHERE t.model_id = model.id)"
    for table in ("revision", "trace", "covariance")
}
_HEAD_MESSAGE = "(SELECT r.message FROM revision AS r WHERE r.id = model.head)"
# Without the digests of the hundreds of tensors.
MODEL = list_records(ModelDetail, "model", {**_COUNTS, "head_message": _HEAD_MESSAGE}, fields=_FIELDS)


def load_layer_counts(catalog: Catalog) -> dict[str, int]:
    """Name -> number of layers (0 if unreadable) of the newest models."""
    rows: list[ModelRow | UnreadableRow] = load_first_rows(catalog, MODELS, _MAX_MODELS)
    return {row.name: row.layers or 0 for row in rows if isinstance(row, ModelRow)}


def find_model_id(catalog: Catalog, name: str) -> int | None:
    """The id of a model by name; None if it does not exist."""
    with catalog.read_connection() as connection:
        row = connection.execute("SELECT id FROM model WHERE name = ?", [name]).fetchone()
    return None if row is None else int(row[0])
