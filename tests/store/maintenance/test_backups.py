"""Backups: made during writes, verified, updated, and restored."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import select

from retcon.store import jobs
from retcon.store.catalog.artifacts import ArtifactStore
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect, has_wal
from retcon.store.catalog.tables import Model, Revision
from retcon.store.errors import CatalogError, CatalogTooNew, InputError
from retcon.store.history import history
from retcon.store.home import Home
from retcon.store.maintenance import backup as backups
from retcon.store.maintenance import verify
from retcon.store.maintenance.gc import collect

WORKERS = "retcon.tests.helpers.workers"


@pytest.fixture
def delta(catalog: Catalog, model: Model) -> str:
    """A model with converted weights, one edit with its delta, and a stopped job with a checkpoint."""
    weights = catalog.home.models / "tiny"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    catalog.home.preset("tiny").write_text("{}")
    model.path = str(weights)
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        artifact = session.merge(catalog.artifacts.put_bytes(b"delta"))
        edit = Revision(
            model_id=model.id, parent=base.id, kind="edit", fingerprint="f", delta=artifact.sha256
        )
        history.commit_revision(session, model, edit, "edit")
        checkpoint = session.merge(catalog.artifacts.put_bytes(b"checkpoint"))
        jobs.create(session, "covariance", {}, "cpu").checkpoint = {"moments": checkpoint.sha256}
    return artifact.sha256


def read_all_rows(catalog: Catalog) -> dict[str, list]:
    """The rows of all tables."""
    connection = connect(catalog.home.catalog)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    finally:
        connection.close()


def test_backup_contains_artifacts_of_queued_jobs(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    with catalog.write() as session:
        picture = session.merge(catalog.artifacts.put_bytes(b"picture"))
        jobs.create(session, "publish", {"pictures": [["map.png", picture.sha256, "A map"]]}, "cpu")
        digest = picture.sha256
    backups.back_up(catalog, tmp_path / "copy")
    assert ArtifactStore(tmp_path / "copy" / "artifacts").verify(digest) is None


def test_there_and_back(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    result = backups.back_up(catalog, tmp_path / "copy", lambda done, total: reports.append((done, total)))
    assert result == backups.BackupResult(artifacts=2, bytes=15)
    assert reports[-1] == (15, 15)
    for path in (tmp_path / "copy", *(tmp_path / "copy").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    before = read_all_rows(catalog)
    catalog.close()
    shutil.rmtree(catalog.home.root)
    assert backups.restore(tmp_path / "copy", catalog.home) == result
    again = Catalog.open(catalog.home)
    assert has_wal(catalog.home.catalog), "the copy has none, and readers would hold up writers"
    assert read_all_rows(again) == before
    assert verify.check(again) == verify.CheckResult(2, 15)
    assert (catalog.home.models / "tiny" / "model.safetensors").read_bytes() == b"weights"
    assert catalog.home.preset("tiny").read_text() == "{}"
    again.close()


def test_restore_updates_paths_of_weights(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    with catalog.write() as session:
        session.add(
            Model(name="far", source="x/y", source_kind="hub", path="/elsewhere/models/far", architecture="",
                  dtype="", parameters=1, size=1, fingerprint="")
        )  # fmt: skip
    backups.back_up(catalog, tmp_path / "copy")
    other = Home(tmp_path / "other")
    backups.restore(tmp_path / "copy", other)
    moved = Catalog.open(other)
    with moved.read() as session:
        paths = {model.name: model.path for model in session.exec(select(Model))}
    assert paths == {"tiny": str(other.models / "tiny"), "far": "/elsewhere/models/far"}
    moved.close()


def test_second_backup_updates_and_repairs(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    copy = ArtifactStore(tmp_path / "copy" / "artifacts")
    backups.back_up(catalog, tmp_path / "copy")
    inodes = {digest: copy.locate(digest).stat().st_ino for digest in copy.digests()}
    copy.locate(delta).write_bytes(b"rotten")
    with catalog.write() as session:
        new = session.merge(catalog.artifacts.put_bytes(b"new")).sha256
        jobs.create(session, "covariance", {}, "cpu").checkpoint = {"moments": new}
    assert backups.back_up(catalog, tmp_path / "copy") == backups.BackupResult(3, 18)
    assert all(copy.verify(digest) is None for digest in (delta, new))
    unchanged = next(digest for digest in inodes if digest != delta)
    assert copy.locate(unchanged).stat().st_ino == inodes[unchanged]


def test_backup_is_consistent_during_writes(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    """While edits are committed, a copy has every delta that its rows name."""
    writers = [
        subprocess.Popen([sys.executable, "-m", WORKERS, "edit_for_ever", str(catalog.home.root), name],
                         stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]  # fmt: skip
    try:
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for number in range(5):
            backups.back_up(catalog, tmp_path / "copy")
            home = Home(tmp_path / f"back{number}")
            backups.restore(tmp_path / "copy", home)
            restored = Catalog.open(home)
            checked = verify.check(restored)
            assert checked.is_sound and checked.damages == [] and checked.artifacts > 2 + number
            restored.close()
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_corrupt_artifact_is_listed_and_old_copy_kept(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    backups.back_up(catalog, tmp_path / "before")
    catalog.artifacts.locate(delta).write_bytes(b"DELTA")
    assert backups.back_up(catalog, tmp_path / "after").corrupt == [delta]
    assert backups.back_up(catalog, tmp_path / "before").corrupt == []
    with pytest.raises(CatalogError, match="has changed"):
        ArtifactStore(catalog.home.artifacts).path(delta)
    assert verify.check(catalog, repair_from=ArtifactStore(tmp_path / "before" / "artifacts")).is_sound


def test_interrupted_backup_keeps_the_previous(
    catalog: Catalog, delta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    for _ in range(2):  # an interrupted first backup, then a later one
        with monkeypatch.context() as patched:
            patched.setattr(backups, "_copy_tree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                backups.back_up(catalog, copy)
        with catalog.write() as session:
            jobs.create(session, "trace", {}, "cpu")
        count = len(read_all_rows(catalog)["job"])
        assert not (copy / "catalog.db").exists() or _jobs(copy / "catalog.db") < count
        backups.back_up(catalog, copy)
        assert _jobs(copy / "catalog.db") == count


def _jobs(path: Path) -> int:
    connection = connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])
    finally:
        connection.close()


def test_no_collection_during_backup(
    catalog: Catalog, delta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ArtifactStore.put_file

    def put_file(store: ArtifactStore, source: Path) -> object:
        with pytest.raises(CatalogError, match="backup"):
            collect(catalog, grace=0, delete=True)
        return real(store, source)

    monkeypatch.setattr(ArtifactStore, "put_file", put_file)
    assert backups.back_up(catalog, tmp_path / "copy").artifacts == 2


def test_invalid_backup_folder_is_rejected(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for target, why in (
        (tmp_path / "mine", "neither empty nor"),
        (tmp_path / "file", "is a file"),
        (catalog.home.backups / "here", "inside the home folder"),
        (tmp_path / "file" / "below", "cannot be written"),
    ):
        with pytest.raises(InputError, match=why):
            backups.back_up(catalog, target)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_backup_of_database_alone(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    backups.backup_database(catalog, target)
    with pytest.raises(InputError, match="exists already"):
        backups.backup_database(catalog, target)
    with pytest.raises(InputError, match="cannot be written"):
        backups.backup_database(catalog, tmp_path / "nowhere" / "copy.db")
    before = read_all_rows(catalog)
    catalog.close()
    for path in catalog.home.root.glob("catalog.db*"):
        path.unlink()
    backups.restore(target, catalog.home)
    again = Catalog.open(catalog.home)
    assert read_all_rows(again) == before and verify.check(again).is_sound
    again.close()


@pytest.mark.parametrize("damage", ["truncated", "no catalog", "newer", "no note", "an artifact"])
def test_invalid_backup_is_rejected(catalog: Catalog, delta: str, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    backups.back_up(catalog, copy)
    database, home = copy / "catalog.db", Home(tmp_path / "new")
    if damage == "truncated":
        os.truncate(database, database.stat().st_size // 2)
    elif damage == "no catalog":
        database.write_bytes(b"")
    elif damage == "newer":
        connection = connect(database)
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
    elif damage == "no note":
        (copy / backups.INFO_FILE).write_text(json.dumps([1]))
    else:
        (copy / "artifacts" / delta[:2] / delta).write_bytes(b"changed")
    if damage == "an artifact":
        assert backups.restore(copy, home).corrupt == [delta]
        return
    expected = {"newer": CatalogTooNew, "no note": InputError}.get(damage, CatalogError)
    with pytest.raises(expected):
        backups.restore(copy, home)
    assert not home.catalog.exists() and not (home.root / ".catalog.db").exists()


def test_restore_keeps_existing_catalog(catalog: Catalog, delta: str, tmp_path: Path) -> None:
    backups.back_up(catalog, tmp_path / "copy")
    before = read_all_rows(catalog)
    with pytest.raises(InputError, match="has a catalog"):
        backups.restore(tmp_path / "copy", catalog.home)
    assert read_all_rows(catalog) == before
    catalog.close()
    catalog.home.catalog.rename(tmp_path / "away.db")
    (catalog.home.root / "catalog.db-wal").write_bytes(b"of the other one")
    with pytest.raises(InputError, match="belongs to another catalog"):
        backups.restore(tmp_path / "copy", catalog.home)
    with pytest.raises(InputError, match="is not a backup"):
        backups.restore(tmp_path / "nowhere", Home(tmp_path / "new"))
