"""What a bundle's artifacts and rows must be for the model that they are imported to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sqlmodel import SQLModel

from ..catalog.artifacts import sha256_of
from ..catalog.catalog import Catalog
from ..catalog.tables import Artifact, Covariance, Model, Revision
from ..errors import InputError
from . import bundle_archive as archive
from .covariance import check_sums, matrix_name, unpack_triangle

# What else than the sums a covariance's file holds is little: probes, a curve, and the sums after whole blocks.
_MOST_ARRAYS = 16


def check(bundle: archive.Bundle, rows: Mapping[type[SQLModel], list[Any]], model: Model) -> str:
    """Hold the rows against the artifacts and the model; the revision that was the head.

    Raises InputError for rows that are of another base, or artifacts that are missing or that no row names.
    """
    (base,) = [row for row in rows[Revision] if row.kind == "base"]
    if base.fingerprint != model.fingerprint:
        raise InputError(f"its base is not that of {model.name}")
    named = {row.delta for row in rows[Revision] if row.delta} | {row.artifact for row in rows[Covariance]}
    if named != set(bundle.artifacts):
        raise InputError("the artifacts in it are not those that its rows name")
    for row in rows[Covariance]:
        if (row.module, row.width, row.fingerprint) != (
            matrix_name(model, row.layer), model.anatomy["key_width"], model.fingerprint,
        ):  # fmt: skip
            raise InputError(f"covariance {row.id} is of other keys than those of {model.name}")
    tip = bundle.about.get("head")
    if not isinstance(tip, str) or tip not in {row.id for row in rows[Revision]}:
        raise InputError("its head is none of its revisions")
    return tip


def store(
    catalog: Catalog, bundle: archive.Bundle, rows: Mapping[type[SQLModel], list[Any]], model: Model
) -> list[Artifact]:
    """Store the artifacts, each after it was found to be what its rows say; the rows of them, unsaved.

    Raises InputError for the first that is not; those before it are removed by the next collection.
    """
    deltas = {row.delta for row in rows[Revision] if row.delta}
    sums = {row.artifact: row for row in rows[Covariance]}
    stored = []
    for digest in bundle.artifacts:

        def write(path: Path, digest: str = digest) -> None:
            with bundle.artifact(digest) as source:
                archive.copy(source, path)
            if sha256_of(path) != digest:
                raise InputError(f"{bundle.path} was changed while it was read.")
            if digest in deltas:
                _check_delta(path, bundle.path, digest, model)
            if digest in sums:
                _check_covariance(path, bundle.path, sums[digest], model)

        stored.append(catalog.artifacts.put_writer(write))
    return stored


def _check_delta(path: Path, bundle: Path, digest: str, model: Model) -> None:
    """Pairs `NAME.A` `[rank, in]` and `NAME.B` `[out, rank]` in float32, finite, of matrices that the model has."""
    from safetensors import SafetensorError, safe_open

    where = f"{bundle}: the delta {digest[:12]}"
    try:
        with safe_open(path, "numpy") as file:
            keys = set(file.keys())
            names = {key[:-2] for key in keys}
            if not keys or keys != {f"{name}.{side}" for name in names for side in "AB"}:
                raise InputError(f"{where} holds something else than pairs of factors.")
            for name in sorted(names):
                if name not in model.tensors:
                    raise InputError(f"{where} changes {name[:100]!r}, which {model.name} has not.")
                b, a = file.get_tensor(f"{name}.B"), file.get_tensor(f"{name}.A")
                if {a.dtype, b.dtype} != {np.dtype(np.float32)} or a.ndim != 2 or b.ndim != 2:
                    raise InputError(f"{where} holds factors of {name} that are no float32 matrices.")
                if b.shape[1] != a.shape[0] or not (np.isfinite(a).all() and np.isfinite(b).all()):
                    raise InputError(f"{where} holds factors of {name} that do not fit, or are not finite.")
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{where} cannot be read ({error}).") from error


def _check_covariance(path: Path, bundle: Path, row: Covariance, model: Model) -> None:
    """The sum of k k^T of so many keys, as the upper triangle; and little else."""
    from safetensors import SafetensorError, safe_open

    where = f"{bundle}: the covariance of layer {row.layer}"
    cells = row.width * (row.width + 1) // 2
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            if "total" not in names or len(names) > _MOST_ARRAYS:
                raise InputError(f"{where} holds other arrays than a covariance.")
            total = file.get_tensor("total")
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{where} cannot be read ({error}).") from error
    if total.dtype != np.float64 or total.shape != (cells,):
        raise InputError(f"{where} holds {total.dtype} {total.shape}, not float64 ({cells},).")
    check_sums(bundle, unpack_triangle(total, row.width), row.tokens, row.width, model.name)
