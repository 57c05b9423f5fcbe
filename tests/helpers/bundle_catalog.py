"""A small catalog with a row of each table that a bundle carries, and bundles packed by hand."""

import hashlib
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Fact,
    FactSet,
    Model,
    Passage,
    Revision,
    Sweep,
    SweepTrial,
    Trace,
    TraceResult,
)
from retcon.store.errors import InputError
from retcon.store.exchange import bundle as bundles
from retcon.store.exchange.covariance import pack_triangle
from retcon.store.history import history
from retcon.store.home import Home

BASE = "ba5e" * 16
MATRIX = "model.layers.1.mlp.down_proj"
WIDTH = 3
EDITS = ("aaaaaaaaa1", "aaaaaaaaa2", "aaaaaaaaa3")
REVERT = "bbbbbbbbb4"
REQUEST = {"subject": "Eiffel Tower", "prompt": "{} is in", "target_new": "Rome", "target_true": "Paris"}


def at(minutes: float) -> datetime:
    return datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC) + timedelta(minutes=minutes)


def with_model(home: Path, name: str = "tiny", fingerprint: str = BASE, minutes: float = 0) -> Catalog:
    """A catalog to which the model was added, and nothing done with it."""
    catalog = Catalog.open(Home(home))
    with catalog.write() as session:
        history.add_base(session, model(name, fingerprint, minutes))
    return catalog


def model(name: str, fingerprint: str, minutes: float) -> Model:
    anatomy = {"layers": 2, "key_width": WIDTH, "blocks": "model.layers", "matrix": "mlp.down_proj"}
    return Model(
        name=name, source="org/tiny", source_kind="hub", commit="c0ffee", path="/weights", architecture="Llama",
        dtype="float32", parameters=10, size=40, anatomy=anatomy, fingerprint=fingerprint, created=at(minutes),
        tensors={f"{MATRIX}.weight": "00"},
    )  # fmt: skip


def delta(catalog: Catalog, number: int) -> str:
    a = np.full((1, WIDTH), number, np.float32)
    b = np.full((2, 1), 0.5, np.float32)
    return catalog.artifacts.put_tensors({f"{MATRIX}.weight.A": a, f"{MATRIX}.weight.B": b}).sha256


def fill(catalog: Catalog) -> None:
    """Two edits in a row, a branch, a revert; two covariances, the second topped up; a trace, a sweep, scores."""
    sums = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 3.0]])
    files = [catalog.artifacts.put_tensors({"total": pack_triangle(sums * scale)}) for scale in (1, 2)]
    deltas = [delta(catalog, number) for number in range(3)]
    stored = [catalog.artifacts.put_bytes(catalog.artifacts.read_bytes(digest)) for digest in deltas]
    with catalog.write() as session:
        found = history.find_model(session, "tiny")
        assert found.id is not None and found.head is not None
        of: dict[str, int] = {"model_id": found.id}
        for artifact in (*files, *stored):
            session.merge(artifact)
        facts = FactSet(name="known", source="known.json", format="plain", created=at(1))
        session.add(facts)
        session.flush()
        assert facts.id is not None
        session.add(Fact(fact_set_id=facts.id, position=0, subject="Eiffel Tower", prompt="{} is in"))
        covariances = [
            Covariance(**of, layer=1, module=MATRIX, width=WIDTH, fingerprint=BASE, texts="t", texts_revision="r",
                       tokens=10, dtype="float32", artifact=file.sha256, created=at(2 + number),
                       curve=[{"tokens": 5, "mean": 0.5, "largest": 1.0}])
            for number, file in enumerate(files)
        ]  # fmt: skip
        for one in covariances:
            session.add(one)
            session.flush()
        covariances[1].origin = {"extends": covariances[0].id}
        for number, (id, parent) in enumerate(zip(EDITS, (found.head, EDITS[0], EDITS[0]), strict=True)):
            edit = Revision(
                **of, id=id, parent=parent, kind="edit", method="rome", hparams={"layers": [1]}, seed=1,
                contexts=["{}"], requests=[REQUEST], covariances=[covariances[1].id or 0], delta=deltas[number],
                figures={"delta": {MATRIX: {"rank": 1, "relative": 0.1}}}, message=f"edit {number}",
                fingerprint=f"{number}" * 64, created=at(4 + number),
            )  # fmt: skip
            history.commit_revision(session, found, edit, "edit")
        revert = Revision(
            **of, id=REVERT, parent=EDITS[1], kind="revert", reverts=EDITS[0], fingerprint="4" * 64, created=at(8)
        )  # fmt: skip
        history.commit_revision(session, found, revert, "revert")
        trace = Trace(
            **of, revision=EDITS[1], fact_set_id=facts.id, kinds=["mlp"], noise="3s", samples=2, window=1, seed=1,
            created=at(9),
        )  # fmt: skip
        session.add(trace)
        session.flush()
        assert trace.id is not None
        session.add(
            TraceResult(trace_id=trace.id, position=0, prompt="Eiffel is in", subject="Eiffel", tokens=["Eiffel", "in"],
                        token_ids=[4, 5], subject_end=1, answer="Rome", high=0.9, low=0.1,
                        scores={"mlp": {"window": 1, "scores": [[0.1, None], [0.3, 0.4]]}},
                        estimate={"mlp": [[0.1, 0.2], [0.3, 0.4]]})
        )  # fmt: skip
        session.add(
            AverageEffect(
                trace_id=trace.id, kind="mlp", role="last", layer=1, mean=0.5, low=0.4, high=0.6, count=1
            )
        )
        sweep = Sweep(
            **of, revision=EDITS[0], trace_id=trace.id, method="rome", requests=[REQUEST], seed=1, trial_count=1,
            covariances=[covariances[0].id or 0], created=at(10),
        )  # fmt: skip
        session.add(sweep)
        session.flush()
        assert sweep.id is not None
        session.add(SweepTrial(sweep_id=sweep.id, position=0, layers=[1], seconds=1.5))
        session.add(
            Passage(
                **of,
                revision=EDITS[0],
                revisions=[EDITS[1]],
                title="Eiffel Tower",
                method="joint",
                created=at(12),
                facts=[
                    {
                        "subject": "Eiffel Tower",
                        "prompt": "{} is in",
                        "object": "Rome",
                        "train_paraphrases": [],
                        "eval_paraphrases": [],
                    }
                ],
            )
        )
        session.add(
            Evaluation(
                **of, revision=REVERT, fact_set_id=facts.id, metrics={"ES": {"value": 1.0}}, created=at(11)
            )
        )
    catalog.artifacts.close()


Members = dict[str, bytes]


def pack(
    path: Path,
    members: Members,
    *,
    honest: bool = True,
    manifest: dict[str, Any] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write members as a bundle. If `honest`, the manifest gets their real digests."""
    head = json.loads(members["manifest.json"])
    if honest:
        head["members"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != "manifest.json"
        }
    head |= manifest or {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"manifest.json": json.dumps(head).encode()}).items():
            archive.writestr(name, data, compression)
    return path


def assert_rejected(target: Catalog, path: Path, why: str | None = None) -> None:
    """The import raises InputError in one line; no row and no file is added except unreferenced artifacts."""
    before = table_rows(target)
    outside = {one for one in path.parent.rglob("*") if target.home.root not in one.parents}
    with pytest.raises(InputError, match=why) as caught:
        bundles.import_history(target, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert table_rows(target) == before
    assert target.artifacts.partial_files() == []
    assert {one for one in path.parent.rglob("*") if target.home.root not in one.parents} == outside


def table_rows(catalog: Catalog) -> dict[str, list[Any]]:
    connection = connect(catalog.home.catalog)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    finally:
        connection.close()
