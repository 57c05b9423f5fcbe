"""Bundles with invalid manifests, rows or artifacts: each is rejected, and nothing of it is stored."""

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.bundle_catalog import (
    EDITS,
    MATRIX,
    REVERT,
    Members,
    assert_rejected,
    pack,
)

MANIFESTS: list[dict[str, Any]] = [
    {"format": "other"}, {"version": "1"}, {"version": True}, {"version": None}, {"members": []},
    {"members": {"rows.json": 3}}, {"model": None}, {"model": {"name": "tiny"}}, {"head": None},
    {"model": {"name": 1, "source": "x", "fingerprint": "f"}}, {"head": "0123456789"}, {"head": [1]},
]  # fmt: skip


@pytest.mark.parametrize("manifest", MANIFESTS, ids=str)
def test_invalid_manifest_is_rejected(
    valid: Members, target: Catalog, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    assert_rejected(target, pack(tmp_path / "x", valid, manifest=manifest))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 200_000, b'"\xff"', b"1" * 10_000, b"null"],
                         ids=lambda text: str(text[:9]))  # fmt: skip
@pytest.mark.parametrize("name", ["rows.json", "manifest.json"])
def test_invalid_json_is_rejected(
    valid: Members, target: Catalog, tmp_path: Path, name: str, text: bytes
) -> None:
    path = pack(tmp_path / "x", valid | {"rows.json": text if name == "rows.json" else valid["rows.json"]})
    if name == "manifest.json":
        with zipfile.ZipFile(tmp_path / "y", "w") as archive:
            for one, data in (valid | {name: text}).items():
                archive.writestr(one, data)
        path = tmp_path / "y"
    assert_rejected(target, path)


Change = Callable[[dict[str, Any]], object]


def put(table: str, column: str, value: Any, row: int = 1) -> Change:
    return lambda rows: rows[table][row].__setitem__(column, value)


ROWS: dict[str, Change] = {
    "no such table": lambda rows: rows.__setitem__("job", []),
    "a table is missing": lambda rows: rows.__delitem__("trace"),
    "a table is not a list": lambda rows: rows.__setitem__("trace", {}),
    "a row is not an object": lambda rows: rows.__setitem__("trace", [1]),
    "another column": put("revision", "extra", 1),
    "a column is missing": lambda rows: rows["revision"][1].__delitem__("message"),
    "no text": put("revision", "message", 5),
    "no number": put("trace", "samples", "5", 0),
    "a bool for a number": put("trace", "samples", True, 0),
    "a number too large": put("trace", "samples", 2**64, 0),
    "not finite": put("average_effect", "mean", float("nan"), 0),
    "no time": put("revision", "created", "yesterday"),
    "a time without a zone": put("revision", "created", "2026-01-01T00:00:00"),
    "null": put("revision", "fingerprint", None),
    "half a character": put("revision", "message", "\ud800"),
    "a list for an object": put("revision", "hparams", []),
    "an id twice": put("revision", "id", EDITS[1]),
    "an id of another form": put("revision", "id", "head"),
    "an id that is a path": put("revision", "id", "../../../x"),
    "two bases": put("revision", "kind", "base"),
    "another kind": put("revision", "kind", "merge"),
    "an edit without a delta": put("revision", "delta", None),
    "a delta that is a path": put("revision", "delta", "../../etc/passwd"),
    "no parent": put("revision", "parent", "0123456789"),
    "its own parent": put("revision", "parent", EDITS[0]),
    "a circle": put("revision", "parent", REVERT),
    "reverts itself": put("revision", "reverts", REVERT, -1),
    "reverts the base": lambda rows: rows["revision"][-1].__setitem__("reverts", rows["revision"][0]["id"]),
    "reverts a later revision": put("revision", "reverts", EDITS[2], -1),
    "another base": put("revision", "fingerprint", "0" * 64, 0),
    "no fingerprint": put("revision", "fingerprint", "short"),
    "a request without a subject": put("revision", "requests", [{"prompt": "", "target_new": ""}]),
    "a request is not an object": put("revision", "requests", ["x"]),
    "layers that are texts": put("revision", "hparams", {"layers": "evil"}),
    "figures of another form": put("revision", "statistics", {"delta": {"m": {"relative": "large"}}}),
    "a covariance that is a text": put("revision", "covariances", ["1"]),
    "no such layer": put("covariance", "layer", 2, 0),
    "another width": put("covariance", "width", 4, 0),
    "another module": put("covariance", "module", "model.layers.0.mlp.up_proj", 0),
    "a covariance of another base": put("covariance", "fingerprint", "0" * 64, 0),
    "no tokens": put("covariance", "tokens", 0, 0),
    "a curve of texts": put("covariance", "curve", ["x"], 0),
    "extends a list": put("covariance", "origin", {"extends": [1]}, 0),
    "a passage of lists": put("passage", "revisions", [["a"]], 0),
    "a trace of no revision": put("trace", "revision", "0123456789", 0),
    "a trace of another kind of tokens": put("trace", "tokens", "none", 0),
    "a trace of no set": put("trace", "fact_set_id", 99, 0),
    "a result of no trace": put("trace_result", "trace_id", 99, 0),
    "scores of another shape": put("trace_result", "scores", {"mlp": {"window": 1, "scores": [[1.0]]}}, 0),
    "scores that are texts": put(
        "trace_result", "scores", {"mlp": {"window": 1, "scores": [["", ""], ["", ""]]}}, 0
    ),
    "no window": put("trace_result", "scores", {"mlp": {"scores": []}}, 0),
    "an estimate of another shape": put("trace_result", "estimate", {"mlp": []}, 0),
    "a subject beyond the tokens": put("trace_result", "subject_end", 5, 0),
    "tokens that are numbers": put("trace_result", "tokens", [1, 2], 0),
    "a result twice": lambda rows: rows["trace_result"].append(rows["trace_result"][0] | {"id": 99}),
    "an effect of no layer": put("average_effect", "layer", -1, 0),
    "a fact of no set": put("fact", "fact_set_id", 99, 0),
}


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
def test_invalid_row_is_rejected(valid: Members, target: Catalog, tmp_path: Path, change: Change) -> None:
    rows = json.loads(valid["rows.json"])
    change(rows)
    assert_rejected(
        target,
        pack(tmp_path / "x", valid | {"rows.json": json.dumps(rows).encode()}),
        "cannot be imported|invalid number of tokens",
    )


FACTORS = {
    f"{MATRIX}.weight.A": np.ones((1, 3), np.float32),
    f"{MATRIX}.weight.B": np.ones((2, 1), np.float32),
}
DELTAS: dict[str, bytes] = {
    "no safetensors": b"\x80\x04pickle",
    "a header of 100 TB": struct.pack("<Q", 10**14) + b"{}",
    "nothing": save({}),
    "another matrix": save({name.replace(MATRIX, "lm_head"): array for name, array in FACTORS.items()}),
    "half a pair": save({f"{MATRIX}.weight.A": np.ones((1, 3), np.float32)}),
    "another rank": save(FACTORS | {f"{MATRIX}.weight.B": np.ones((2, 5), np.float32)}),
    "not finite": save(FACTORS | {f"{MATRIX}.weight.B": np.full((2, 1), np.inf, np.float32)}),
    "another type": save(FACTORS | {f"{MATRIX}.weight.B": np.ones((2, 1), np.float64)}),
    "no matrix": save(FACTORS | {f"{MATRIX}.weight.B": np.ones(2, np.float32)}),
    "something beside": save(FACTORS | {"more": np.ones(2, np.float32)}),
}  # fmt: skip
SUMS: dict[str, bytes] = {
    "no covariance": save({"other": np.ones(6)}),
    "another width": save({"total": np.ones(10)}),
    "another type": save({"total": np.ones(6, np.float32)}),
    "not finite": save({"total": np.array([1, 0, 0, 1, 0, np.nan])}),
    "no second moment": save({"total": np.array([1.0, 5, 0, 1, 0, 1])}),
}


@pytest.mark.parametrize(("table", "column", "blob"), [
    *(pytest.param("revision", "delta", blob, id=f"delta: {name}") for name, blob in DELTAS.items()),
    *(pytest.param("covariance", "artifact", blob, id=f"covariance: {name}") for name, blob in SUMS.items()),
])  # fmt: skip
def test_invalid_artifact_is_rejected(
    valid: Members, target: Catalog, tmp_path: Path, table: str, column: str, blob: bytes
) -> None:
    rows, members = json.loads(valid["rows.json"]), dict(valid)
    digest = hashlib.sha256(blob).hexdigest()
    row = next(one for one in rows[table] if one[column])
    del members[f"artifacts/{row[column]}"]
    row[column] = digest
    members |= {"rows.json": json.dumps(rows).encode(), f"artifacts/{digest}": blob}
    assert_rejected(
        target, pack(tmp_path / "x", members), "the delta|the covariance|holds|second moment|not finite"
    )
