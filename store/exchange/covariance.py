"""Covariances as files: retcon's .safetensors with all settings that determine the value, and the published .npz.

layer_stats of rome and memit writes the .npz (util/runningstats.py, CombinedStat of one SecondMoment):
`mom2.mom2` is the SUM of k k^T, `mom2.count` the tokens, `sample_size` the documents, `mom2.constructor` a name. The
layer and the precision are only in the file name, `transformer.h.17.mlp.c_proj_float32_mom2_100000.npz`.
"""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..atomic_files import check_new_file, write_atomically
from ..catalog.artifacts import sha256_of
from ..catalog.catalog import Catalog
from ..catalog.connection import MAX_INTEGER
from ..catalog.tables import Covariance, Model
from ..errors import InputError
from ..history import history
from ..validation import Count, CurvePoint, Integer, Text, Time, describe
from .trace import read_npz_arrays

FORMAT = "retcon covariance"
# The columns that a file contains: all settings that determine the value, and its origin.
PROVENANCE = ("fingerprint", "tokenizer", "layer", "module", "width", "texts", "texts_revision", "seed", "tokens",
              "documents", "max_length", "dtype", "curve", "origin")  # fmt: skip
_FIELD_NAME = re.compile(r"(?P<module>.+)_float\d\d_mom2(_t[^_]*(batch_tokens\})?)?(_\d+)?\.npz")
# Allowed asymmetry of a float32 sum over millions of tokens, in units of sqrt(C_ii C_jj).
_MAX_ASYMMETRY = 1e-3


def pack_triangle(square: np.ndarray) -> np.ndarray:
    """The upper triangle of `[n, n]`, row after row: `[n (n + 1) / 2]`."""
    return np.concatenate([row[number:] for number, row in enumerate(square)])


def unpack_triangle(triangle: np.ndarray, width: int) -> np.ndarray:
    """The symmetric `[width, width]` matrix of such a triangle."""
    square, at = np.empty((width, width), triangle.dtype), 0
    for number in range(width):
        row = triangle[at : at + width - number]
        square[number, number:] = square[number:, number] = row
        at += len(row)
    return square


def load_sum(catalog: Catalog, row: Covariance) -> np.ndarray:
    """The sum of k k^T of a covariance, float64 `[width, width]`, from its verified artifact."""
    return unpack_triangle(catalog.artifacts.read_arrays(row.artifact)["total"], row.width)


def field_name(row: Covariance) -> str:
    """The file name that the published code expects."""
    size = "" if row.documents is None else f"_{row.documents}"
    return f"{row.module}_float64_mom2{size}.npz"


def write_covariance(path: Path, row: Covariance, model: str, total: np.ndarray) -> None:
    """Write a covariance of `model` atomically. The suffix selects the format.

    Raises InputError for another suffix, a missing folder or an existing file, CatalogError if writing fails.
    """
    writers: dict[str, Callable[[Path], None]] = {
        ".safetensors": lambda partial: _write_own(partial, row, model, total),
        ".npz": lambda partial: _write_npz(partial, row, total),
    }
    if path.suffix not in writers:
        raise InputError(f"{path} has an unknown suffix: give a name that ends in {' or '.join(writers)}.")
    check_new_file(path)
    write_atomically(path, writers[path.suffix])


def _write_own(path: Path, row: Covariance, model: str, total: np.ndarray) -> None:
    from safetensors.numpy import save

    provenance = {name: getattr(row, name) for name in PROVENANCE} | {
        "model": model,
        "created": row.created.astimezone(UTC).isoformat(),
    }
    metadata = {"format": FORMAT, "sha256": _digest(total), "made": json.dumps(provenance)}
    path.write_bytes(save({"total": total}, metadata))


def _write_npz(path: Path, row: Covariance, total: np.ndarray) -> None:
    arrays = {
        "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
        "mom2.count": np.array(row.tokens),
        "mom2.mom2": total,
    }
    # The published loader compares the number of documents with its settings. Without the key it means all documents.
    if row.documents is not None:
        arrays["sample_size"] = np.array(row.documents)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _digest(total: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(total).data).hexdigest()


def import_covariance(catalog: Catalog, path: Path, model: str, layer: int) -> Covariance:
    """Import a file of either format as a covariance of a model's base. Returns the saved row.

    Raises InputError if the file is invalid, or has another shape, layer or base than the model.
    """
    with catalog.read() as session:
        found = history.find_model(session, model)
    anatomy = found.anatomy
    if not 0 <= layer < anatomy["layers"]:
        raise InputError(f"{model} has layers 0 to {anatomy['layers'] - 1}; there is no layer {layer}.")
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    row, total = _read(path)
    _check_place(path, row, found, layer)
    check_second_moment(path, total, row.tokens, anatomy["key_width"], model)
    row.model_id, row.fingerprint, row.layer = found.id or 0, found.fingerprint, layer
    row.module, row.width, row.dtype = matrix_name(found, layer), anatomy["key_width"], found.dtype
    row.origin = {"imported": str(path.absolute()), "sha256": sha256_of(path)} | row.origin
    artifact = catalog.artifacts.put_tensors({"total": pack_triangle(total)})
    row.artifact = artifact.sha256
    with catalog.write(durable=True) as session:
        session.merge(artifact)
        session.add(row)
    return row


def matrix_name(model: Model, layer: int) -> str:
    """The name of the matrix whose keys a covariance of a layer describes."""
    return f"{model.anatomy['blocks']}.{layer}.{model.anatomy['matrix']}"


def _check_place(path: Path, row: Covariance, model: Model, layer: int) -> None:
    """A layer and a base that the file names must be those of the import."""
    expected = matrix_name(model, layer)
    if row.module and row.module != expected:
        raise InputError(f"{path} is of {row.module}, layer {layer} of {model.name} is {expected}.")
    if row.fingerprint and row.fingerprint != model.fingerprint:
        raise InputError(
            f"{path} is of other weights (fingerprint {row.fingerprint[:12]}) than the base of {model.name} "
            f"({model.fingerprint[:12]}): import it for that model."
        )


def check_second_moment(path: Path, total: np.ndarray, tokens: int, width: int, model: str) -> None:
    """Raise InputError unless this can be a sum of k k^T: shape, finite, symmetric, Cauchy-Schwarz inequality."""
    if total.shape != (width, width):
        raise InputError(f"{path} holds {total.shape}; keys of {model} need ({width}, {width}).")
    if not 1 <= tokens <= MAX_INTEGER:
        raise InputError(f"{path} has an invalid number of tokens, {tokens}.")
    if not np.isfinite(total).all():
        raise InputError(f"{path} contains numbers that are not finite.")
    lengths = np.sqrt(np.maximum(total.diagonal(), 0))
    for number, row in enumerate(total):
        bound = lengths[number] * lengths * (1 + _MAX_ASYMMETRY)
        if total[number, number] < 0 or (np.abs(row) > bound).any():
            raise InputError(
                f"{path} is not a second moment: row {number} violates the Cauchy-Schwarz inequality."
            )
        if (np.abs(row - total[:, number]) > _MAX_ASYMMETRY * bound).any():
            raise InputError(f"{path} contains a matrix that is not symmetric (row {number}).")


def _read(path: Path) -> tuple[Covariance, np.ndarray]:
    """The content of a file: an unsaved row with the columns that the file has, and the sum of k k^T as float64."""
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_own(path)
    raise InputError(f"{path} has an unknown suffix: retcon reads .safetensors and .npz.")


def _read_npz(path: Path) -> tuple[Covariance, np.ndarray]:
    found = read_npz_arrays(path)
    for name in ("mom2.mom2", "mom2.count"):
        if name not in found:
            raise InputError(
                f"{path} lacks {name}; layer_stats of rome and memit writes it. It has {', '.join(found) or 'nothing'}."
            )
    total, count, size = found["mom2.mom2"], found["mom2.count"], found.get("sample_size")
    if total.dtype.kind != "f" or count.dtype.kind not in "iu" or count.size != 1:
        raise InputError(
            f"{path} has mom2.mom2 of {total.dtype} and mom2.count of {count.dtype} {count.shape}; "
            "they must be floating point numbers and one whole number."
        )
    named = _FIELD_NAME.fullmatch(path.name)
    documents = None
    if size is not None and size.dtype.kind in "iu" and size.size == 1:
        documents = int(size.item())
    # An empty column is unknown. The import sets it.
    columns: dict[str, Any] = {
        "fingerprint": "",
        "module": named["module"] if named else "",
        "texts": path.parent.name.removesuffix("_stats")
        if path.parent.name.endswith("_stats")
        else path.name,
        "texts_revision": "unknown",
        "tokens": int(count.item()),
        "documents": documents,
        "origin": {"format": "layer_stats of rome and memit"},
    }
    return Covariance(**columns), total.astype(np.float64)


class _Provenance(TypedDict):
    """The settings in a file that retcon exported."""

    layer: Integer
    width: Integer
    # An empty text would skip the comparison with the model.
    fingerprint: Text
    module: Text
    texts: Text
    texts_revision: Text
    dtype: Text
    tokenizer: str | None
    tokens: Count
    seed: Count | None
    documents: Count | None
    max_length: Count | None
    curve: list[CurvePoint]
    origin: dict[str, Any]
    model: str
    created: Time


def _read_own(path: Path) -> tuple[Covariance, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            total = file.get_tensor("total") if "total" in file.keys() else None  # noqa: SIM118, not a dict
    except (SafetensorError, OSError, ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{path} cannot be read as .safetensors ({error}).") from error
    if metadata.get("format") != FORMAT or total is None:
        raise InputError(f"{path} is not a covariance that retcon exported.")
    if total.dtype != np.float64 or _digest(total) != metadata.get("sha256"):
        raise InputError(f"{path} has changed since it was exported: its sums have another sha256.")
    try:
        found = TypeAdapter(_Provenance).validate_json(metadata["made"])
    except KeyError as error:
        raise InputError(f"{path} has invalid metadata (it has no {error}).") from error
    except ValidationError as error:
        raise InputError(f"{path} has invalid metadata ({describe(error)}).") from error
    origin = {
        "format": FORMAT,
        "model": found["model"],
        "created": found["created"],
        "before": found["origin"],
    }
    columns: dict[str, Any] = {name: value for name, value in found.items() if name in PROVENANCE}
    return Covariance(**columns | {"origin": origin}), total
