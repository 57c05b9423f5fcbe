"""A catalog with so many rows in each of the five lists, written in bulk. Also used by the tests of budgets."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home

_WHEN = "2026-03-01 12:00:00.000000"
_ANATOMY = json.dumps({"layers": 30, "width": 576, "blocks": "model.layers", "matrix": "mlp.down_proj"})
_SCORES = json.dumps({"hidden": {"window": 1, "scores": [[0.1, 0.2], [0.3, 0.4]]}})


def large_catalog(folder: Path, rows: int) -> Home:
    """Models, traces with a result each, covariances, the revisions of one model, and jobs: `rows` of each."""
    home = Home(folder)
    Catalog.open(home).close()
    connection = sqlite3.connect(home.catalog)
    numbers = range(1, rows + 1)

    def insert(table: str, values: Iterator[dict[str, object]]) -> None:
        first = next(values)
        columns = ", ".join(f'"{name}"' for name in first)
        marks = ", ".join(f":{name}" for name in first)
        sql = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        connection.execute(sql, first)
        connection.executemany(sql, values)

    def revision(number: int) -> str:
        return f"{number:010x}"

    insert(
        "model",
        ({"id": n, "name": f"model-{n:06}", "source": f"org/model-{n}", "source_kind": "hub", "path": f"/models/{n}",
          "architecture": "LlamaForCausalLM", "dtype": "float32", "parameters": 134_515_008, "size": 538_060_032,
          "anatomy": _ANATOMY, "fingerprint": f"{n:064x}", "tensors": "{}", "trust_remote_code": 0, "created": _WHEN}
         for n in numbers),
    )  # fmt: skip
    insert(
        "revision",
        ({"id": revision(n), "model_id": rows, "parent": revision(n - 1) if n > 1 else None,
          "kind": "edit" if n > 1 else "base", "method": "rome" if n > 1 else None, "hparams": '{"layers": [5]}',
          "contexts": "[]", "covariances": "[]", "statistics": "{}", "requests": '[{"subject": "Rome"}]',
          "message": f"Tower {n} → Rome", "fingerprint": f"{n:064x}", "created": _WHEN} for n in numbers),
    )  # fmt: skip
    connection.execute("UPDATE model SET head = ? WHERE id = ?", (revision(rows), rows))
    insert(
        "trace",
        ({"id": n, "model_id": 1 + n % 7, "revision": revision(1), "kinds": '["hidden", "mlp"]', "noise": "3s",
          "samples": 10, "window": 10, "seed": 1, "tokens": "all", "replace": 0, "protocol": "{}", "created": _WHEN}
         for n in numbers),
    )  # fmt: skip
    insert(
        "trace_result",
        ({"trace_id": n, "position": 0, "prompt": f"Tower {n} is located in the city of", "subject": f"Tower {n}",
          "tokens": '["Tower", " is"]', "token_ids": "[]", "subject_begin": 0, "subject_end": 1, "answer": " Paris",
          "high": 0.9, "low": 0.1, "scores": _SCORES, "estimate": "{}", "is_complete": 1} for n in numbers),
    )  # fmt: skip
    connection.execute("INSERT INTO artifact VALUES (?, ?, ?)", ("a" * 64, 18_874_368, _WHEN))
    insert(
        "covariance",
        ({"id": n, "model_id": 1 + n % 7, "layer": n % 30, "module": "mlp.down_proj", "width": 1536, "tokens": 45_063,
          "fingerprint": f"{n:064x}", "texts": "shipped", "texts_revision": "2" * 64, "dtype": "float32",
          "curve": "[]", "origin": "{}", "artifact": "a" * 64, "created": _WHEN} for n in numbers),
    )  # fmt: skip
    insert(
        "job",
        ({"id": n, "kind": "trace", "spec": json.dumps({"model": f"model-{n:06}", "prompt": f"Tower {n} is in"}),
          "state": "failed" if n % 9 == 0 else "done", "priority": 0, "device": "cpu", "attempt": 1, "done": 10,
          "unit": "facts", "activity": "", "detail": "", "result": "{}", "checkpoint": "{}", "nodes": "{}",
          "created": _WHEN}
         for n in numbers),
    )  # fmt: skip
    connection.commit()
    connection.execute("ANALYZE")
    connection.close()
    return home
