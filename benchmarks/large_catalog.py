"""A catalog with many rows in each of the five lists, written in bulk. The tests of budgets use it too."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home

_WHEN = "2026-03-01 12:00:00.000000"
_ANATOMY = json.dumps({"layers": 30, "width": 576, "blocks": "model.layers", "matrix": "mlp.down_proj"})
_SCORES = json.dumps({"hidden": {"window": 1, "scores": [[0.1, 0.2], [0.3, 0.4]]}})
_DIGEST = "a" * 64

Rows = Iterator[dict[str, object]]


def build_large_catalog(folder: Path, rows: int) -> Home:
    """Models, traces with one result each, covariances, revisions of one model, and jobs: `rows` of each."""
    home = Home(folder)
    Catalog.open(home).close()
    numbers = range(1, rows + 1)
    connection = sqlite3.connect(home.catalog)
    connection.execute("INSERT INTO artifact VALUES (?, ?, ?)", (_DIGEST, 18_874_368, _WHEN))
    _insert(connection, "model", _iter_models(numbers))
    _insert(connection, "revision", _iter_revisions(numbers))
    connection.execute("UPDATE model SET head = ? WHERE id = ?", (_revision_id(rows), rows))
    _insert(connection, "trace", _iter_traces(numbers))
    _insert(connection, "trace_result", _iter_trace_results(numbers))
    _insert(connection, "covariance", _iter_covariances(numbers))
    _insert(connection, "job", _iter_jobs(numbers))
    connection.commit()
    connection.execute("ANALYZE")
    connection.close()
    return home


def _insert(connection: sqlite3.Connection, table: str, values: Rows) -> None:
    first = next(values)
    columns = ", ".join(f'"{name}"' for name in first)
    parameters = ", ".join(f":{name}" for name in first)
    sql = f"INSERT INTO {table} ({columns}) VALUES ({parameters})"
    connection.execute(sql, first)
    connection.executemany(sql, values)


def _revision_id(number: int) -> str:
    return f"{number:010x}"


def _iter_models(numbers: range) -> Rows:
    return (
        {"id": n, "name": f"model-{n:06}", "source": f"org/model-{n}", "source_kind": "hub", "path": f"/models/{n}",
         "architecture": "LlamaForCausalLM", "dtype": "float32", "parameters": 134_515_008, "size": 538_060_032,
         "anatomy": _ANATOMY, "fingerprint": f"{n:064x}", "tensors": "{}", "trust_remote_code": 0, "created": _WHEN}
        for n in numbers
    )  # fmt: skip


def _iter_revisions(numbers: range) -> Rows:
    """The revisions of the last model: a base, and edits on top of each other."""
    return (
        {"id": _revision_id(n), "model_id": len(numbers), "parent": _revision_id(n - 1) if n > 1 else None,
         "kind": "edit" if n > 1 else "base", "method": "rome" if n > 1 else None, "hparams": '{"layers": [5]}',
         "contexts": "[]", "covariances": "[]", "statistics": "{}", "requests": '[{"subject": "Rome"}]',
         "message": f"Tower {n} → Rome", "fingerprint": f"{n:064x}", "created": _WHEN}
        for n in numbers
    )  # fmt: skip


def _iter_traces(numbers: range) -> Rows:
    return (
        {"id": n, "model_id": 1 + n % 7, "revision": _revision_id(1), "kinds": '["hidden", "mlp"]', "noise": "3s",
         "samples": 10, "window": 10, "seed": 1, "tokens": "all", "replace": 0, "protocol": "{}", "created": _WHEN}
        for n in numbers
    )  # fmt: skip


def _iter_trace_results(numbers: range) -> Rows:
    return (
        {"trace_id": n, "position": 0, "prompt": f"Tower {n} is located in the city of", "subject": f"Tower {n}",
         "tokens": '["Tower", " is"]', "token_ids": "[]", "subject_begin": 0, "subject_end": 1, "answer": " Paris",
         "high": 0.9, "low": 0.1, "scores": _SCORES, "estimate": "{}", "is_complete": 1}
        for n in numbers
    )  # fmt: skip


def _iter_covariances(numbers: range) -> Rows:
    return (
        {"id": n, "model_id": 1 + n % 7, "layer": n % 30, "module": "mlp.down_proj", "width": 1536, "tokens": 45_063,
         "fingerprint": f"{n:064x}", "texts": "shipped", "texts_revision": "2" * 64, "dtype": "float32",
         "curve": "[]", "origin": "{}", "artifact": _DIGEST, "created": _WHEN}
        for n in numbers
    )  # fmt: skip


def _iter_jobs(numbers: range) -> Rows:
    return (
        {"id": n, "kind": "trace", "spec": json.dumps({"model": f"model-{n:06}", "prompt": f"Tower {n} is in"}),
         "state": "failed" if n % 9 == 0 else "done", "priority": 0, "device": "cpu", "attempt": 1, "done": 10,
         "unit": "facts", "activity": "", "detail": "", "result": "{}", "checkpoint": "{}", "nodes": "{}",
         "created": _WHEN}
        for n in numbers
    )  # fmt: skip
