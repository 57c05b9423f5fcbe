"""Garbage collection deletes unreferenced files, and keeps files of rows and of live processes."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlmodel import select

from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Artifact, Model, Revision
from retcon.store.errors import CatalogError
from retcon.store.history import history
from retcon.store.maintenance import verify
from retcon.store.maintenance.gc import Unreferenced, collect

WORKERS = "retcon.tests.helpers.workers"


@pytest.fixture
def deltas(catalog: Catalog, model: Model) -> dict[str, str]:
    """Artifacts by the row that references them. All are old, and their process has ended."""
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        digests = {}
        for use in ("revision", "job", "nothing"):
            row = session.merge(catalog.artifacts.put_bytes(use.encode()))
            digests[use] = row.sha256
        digests["no row"] = catalog.artifacts.put_bytes(b"no row").sha256
        edit = Revision(
            model_id=model.id, parent=base.id, kind="edit", fingerprint="f", delta=digests["revision"]
        )
        history.commit_revision(session, model, edit, "edit")
        jobs.create(session, "covariance", {}, "cpu").checkpoint = {"sums": [{"sha": digests["job"]}]}
    catalog.artifacts.close()
    for digest in digests.values():
        old(catalog.artifacts.path(digest))
    return digests


def old(path: Path) -> Path:
    os.utime(path, (1, 1))
    return path


def names(found: list[Unreferenced]) -> list[tuple[str, str]]:
    return sorted((one.kind, one.path.name) for one in found)


def test_dry_run_deletes_nothing(catalog: Catalog, deltas: dict[str, str]) -> None:
    found = collect(catalog)
    assert names(found) == sorted([("artifact", deltas["nothing"]), ("artifact", deltas["no row"])])
    assert sum(one.bytes for one in found) == len("nothing") + len("no row")
    assert set(catalog.artifacts.digests()) == set(deltas.values())


def test_only_unreferenced_files_are_deleted(catalog: Catalog, deltas: dict[str, str]) -> None:
    young = catalog.artifacts.put_bytes(b"its row comes soon").sha256
    assert names(collect(catalog, delete=True)) == names(
        [Unreferenced("artifact", Path(deltas[use]), 0, "") for use in ("nothing", "no row")]
    )
    assert set(catalog.artifacts.digests()) == {deltas["revision"], deltas["job"], young}
    with catalog.read() as session:
        assert {row.sha256 for row in session.exec(select(Artifact))} == {deltas["revision"], deltas["job"]}
    assert collect(catalog, delete=True) == []
    assert verify.check(catalog).is_sound


def test_row_of_missing_file_is_deleted(catalog: Catalog, deltas: dict[str, str]) -> None:
    catalog.artifacts.remove(deltas["nothing"])
    assert verify.check(catalog).is_sound
    collect(catalog, delete=True)
    with catalog.read() as session:
        assert session.get(Artifact, deltas["nothing"]) is None


def test_checkpoint_of_done_job_is_unreferenced(catalog: Catalog, deltas: dict[str, str]) -> None:
    with catalog.write() as session:
        jobs.claim(session, 1, "me", 1)
        jobs.finish(session, 1, "me", {})
    assert len(collect(catalog, delete=True)) == 3
    assert verify.check(catalog).is_sound


def test_live_lease_protects_files(catalog: Catalog, deltas: dict[str, str]) -> None:
    """A process holds its lease from its first file to its end, and commits its rows in between."""
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKERS, "store_and_wait", str(catalog.home.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    digest = worker.stdout.readline().strip()
    (half,) = catalog.artifacts.partial_files()
    # As if the process started long ago and stored both files some time later.
    (lease,) = [path for path in catalog.artifacts.leases.folder.iterdir() if path.name != "lock"]
    os.utime(lease, (1000, 1000))
    for path in (catalog.artifacts.path(digest), half):
        os.utime(path, (2000, 2000))
    collect(catalog, grace=0, delete=True)
    assert digest in set(catalog.artifacts.digests()) and half.exists()
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    for path in (catalog.artifacts.path(digest), half):
        old(path)
    assert names(collect(catalog, grace=0, delete=True)) == names(
        [Unreferenced("artifact", Path(digest), 0, ""), Unreferenced("temporary", half, 0, "")]
    )
    assert digest not in set(catalog.artifacts.digests()) and not half.exists()
    assert [path.name for path in catalog.artifacts.leases.folder.iterdir()] == ["lock"]


def test_stored_file_survives_concurrent_removal(
    catalog: Catalog, deltas: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog.artifacts.remove

    def remove(digest: str, before: float) -> int:
        catalog.artifacts.put_bytes(b"nothing")
        return real(digest, before)

    monkeypatch.setattr(catalog.artifacts, "remove", remove)
    assert names(collect(catalog, grace=0, delete=True)) == [("artifact", deltas["no row"])]
    assert catalog.artifacts.read_bytes(deltas["nothing"]) == b"nothing"


def test_no_removal_during_reading(catalog: Catalog, deltas: dict[str, str]) -> None:
    with catalog.artifacts.leases.shared():
        with pytest.raises(CatalogError, match="backup"):
            collect(catalog, delete=True)
        assert catalog.artifacts.remove(deltas["nothing"]) == 0
        # The process continues to store files.
        stored = threading.Thread(target=catalog.artifacts.put_bytes, args=(b"new",))
        stored.start()
        stored.join(timeout=10)
        assert not stored.is_alive()
    assert set(deltas.values()) < set(catalog.artifacts.digests())


def test_files_of_jobs(catalog: Catalog) -> None:
    """Keeps the files of jobs that can be resumed and the logs of done jobs; deletes those of removed jobs."""
    with catalog.write() as session:
        for state in ("done", "failed"):
            jobs.create(session, "evaluation", {}, "cpu").state = state
    logs = catalog.home.logs
    for name in ("job-1.log", "job-1.kept.jsonl", "job-2.log", "job-2.kept.jsonl", "job-9.log", "job-9.kept.jsonl",
                 "notes.txt"):  # fmt: skip
        (logs / name).write_text("x")
        old(logs / name)
    (logs / "job-8.log").write_text("young")
    deleted = [("checkpoint", "job-1.kept.jsonl"), ("checkpoint", "job-9.kept.jsonl"), ("log", "job-9.log")]
    assert names(collect(catalog)) == deleted
    assert names(collect(catalog, delete=True)) == deleted
    assert sorted(path.name for path in logs.iterdir()) == [
        "job-1.log", "job-2.kept.jsonl", "job-2.log", "job-8.log", "notes.txt",
    ]  # fmt: skip


def test_folders_of_killed_exports_are_deleted(catalog: Catalog, tmp_path: Path) -> None:
    """Only folders with the temporary name of an export, only beside its folder, and not while it runs."""
    made = [".out-abcd_123", ".out-other", "out-abcd_123", ".another-abcd_123", "out"]
    for name in made:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        old(tmp_path / name)
    (tmp_path / ".out-linked_1").symlink_to(tmp_path / "out")
    with catalog.write() as session:
        job = jobs.create(session, "export", {"folder": str(tmp_path / "out")}, "cpu")
    assert collect(catalog) == []
    with catalog.write() as session:
        assert job.id is not None
        jobs.mark_interrupted(session, job.id, None)
    (found,) = collect(catalog, delete=True)
    assert (found.kind, found.path, found.bytes) == ("export", tmp_path / ".out-abcd_123", len("weights"))
    assert not found.path.exists()
    assert {path.name for path in tmp_path.iterdir()} >= {*made[1:], ".out-linked_1"}
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_weights_without_model_are_deleted(catalog: Catalog, model: Model) -> None:
    folders = {name: catalog.home.models / name for name in ("tiny", "being-added", "left", "young")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        if name != "young":
            old(folder)
    model.path = str(folders["tiny"])
    with catalog.write() as session:
        history.add_base(session, model)
        jobs.create(session, "model", {"name": "being-added"}, "cpu").state = "interrupted"
    assert names(collect(catalog, delete=True)) == [("weights", "left")]
    assert {name for name, folder in folders.items() if folder.exists()} == {"tiny", "being-added", "young"}


def test_useless_quarantined_files_are_deleted(catalog: Catalog, deltas: dict[str, str]) -> None:
    catalog.artifacts.path(deltas["revision"]).write_bytes(b"bad")
    verify.check(catalog)
    (bad,) = catalog.home.quarantine.iterdir()
    old(bad)
    assert "corrupt" not in dict(names(collect(catalog, delete=True)))
    catalog.artifacts.put_bytes(b"revision")
    os.utime(bad)
    assert collect(catalog) == [], "it is young"
    old(bad)
    assert names(collect(catalog, delete=True)) == [("corrupt", bad.name)]


def test_interrupted_copies_are_replaced(catalog: Catalog) -> None:
    partial = catalog.home.backups / "catalog-1.db.partial"
    partial.write_bytes(b"half")
    assert collect(catalog) == []
    old(partial)
    assert names(collect(catalog, delete=True)) == [("temporary", partial.name)]
    assert not partial.exists()
