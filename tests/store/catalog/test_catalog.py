"""The open catalog: pragmas, concurrent transactions, and error messages."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import APPLICATION_ID, connect, plain_errors
from retcon.store.catalog.tables import (
    Artifact,
    Covariance,
    Fact,
    FactSet,
    Job,
    Model,
    Revision,
    Trace,
    TraceResult,
)
from retcon.store.errors import CatalogError
from retcon.store.history import history
from retcon.store.home import Home

WORKERS = "retcon.tests.helpers.workers"


def start(name: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", WORKERS, name, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pragma(session: Session, name: str) -> object:
    return session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()


def test_pragmas(catalog: Catalog) -> None:
    for transaction in (catalog.read, catalog.write):
        with transaction() as session:
            assert pragma(session, "foreign_keys") == 1
            assert pragma(session, "busy_timeout") == 30_000
            assert pragma(session, "journal_mode") == "wal"
            assert pragma(session, "synchronous") == 1
            assert pragma(session, "journal_size_limit") == 64 * 1024 * 1024
            assert pragma(session, "application_id") == APPLICATION_ID
    with catalog.write(durable=True) as session:
        assert pragma(session, "synchronous") == 2


def test_read_cannot_write(catalog: Catalog) -> None:
    with pytest.raises(CatalogError), catalog.read() as session:
        session.add(FactSet(name="a", source="", format=""))
        session.flush()


def test_rows_outlive_session_with_aware_times(catalog: Catalog) -> None:
    with catalog.write() as session:
        job = jobs.create(session, "trace", {"a": 1}, "cpu")
    assert job.id == 1
    with catalog.read() as session:
        again = session.exec(select(Job)).one()
    assert again.spec == {"a": 1}
    assert again.created == job.created
    assert again.created.utcoffset() is not None


def test_exception_rolls_back(catalog: Catalog) -> None:
    with pytest.raises(RuntimeError), catalog.write() as session:
        jobs.create(session, "trace", {}, "cpu")
        raise RuntimeError
    with catalog.read() as session:
        assert session.exec(select(Job)).all() == []


def test_rows_of_one_transaction_need_no_order(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        history.add_base(session, model)
        assert model.id is not None
        session.add(
            Covariance(
                model_id=model.id,
                layer=1,
                module="m",
                width=2,
                fingerprint="f",
                texts="t",
                texts_revision="r",
                seed=1,
                tokens=1,
                documents=1,
                max_length=1,
                dtype="float32",
                artifact="a" * 64,
            )
        )
        session.flush()
        session.add(Artifact(sha256="a" * 64, size=1))


def test_dangling_key_is_rejected(catalog: Catalog) -> None:
    with pytest.raises(IntegrityError), catalog.write() as session:
        session.add(TraceResult(trace_id=9, position=0, prompt="", subject="", subject_begin=0, subject_end=1,
                                answer=""))  # fmt: skip


def test_states_are_checked(catalog: Catalog) -> None:
    with pytest.raises(IntegrityError), catalog.write() as session:
        session.add(Job(kind="trace", device="cpu", state="nearly"))


def test_deleting_a_model_deletes_its_rows(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        history.commit_revision(
            session, model, Revision(model_id=model.id, parent=base.id, kind="edit", fingerprint="f1"), "edit"
        )
        trace = Trace(model_id=model.id, revision=base.id, noise="3s", samples=1, window=1, seed=1)
        session.add(trace)
    with catalog.write() as session:
        session.delete(session.get_one(Model, model.id))
    with catalog.read() as session:
        for table in (Revision, Trace):
            assert session.exec(select(table)).all() == []


def test_id_of_removed_job_is_not_reused(catalog: Catalog) -> None:
    with catalog.write() as session:
        first = jobs.create(session, "trace", {}, "cpu")
        session.delete(first)
        session.flush()
        assert jobs.create(session, "trace", {}, "cpu").id == 2


def test_six_processes_read_modify_write(catalog: Catalog) -> None:
    with catalog.write() as session:
        jobs.create(session, "count", {}, "cpu")
    workers = [start("count_up", catalog.home.root, 60) for _ in range(6)]
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    with catalog.read() as session:
        assert session.exec(select(Job)).one().done == 360


def test_readers_do_not_wait_for_a_writer(catalog: Catalog) -> None:
    with catalog.write() as writing:
        jobs.create(writing, "trace", {}, "cpu")
        begin = time.monotonic()
        with catalog.read() as session:
            assert session.exec(select(Job)).all() == []
        assert time.monotonic() - begin < 5


def test_data_version_changes_with_every_commit(catalog: Catalog) -> None:
    first = catalog.data_version()
    assert catalog.data_version() == first
    with catalog.read() as session:
        session.exec(select(Job)).all()
    assert catalog.data_version() == first
    with catalog.write() as session:
        jobs.create(session, "count", {}, "cpu")
    second = catalog.data_version()
    assert second != first
    assert start("count_up", catalog.home.root, 1).wait(30) == 0
    assert catalog.data_version() != second


def test_kill_loses_no_commit(catalog: Catalog) -> None:
    worker = start("stream", catalog.home.root)
    assert worker.stdout is not None
    for line in worker.stdout:
        if int(line) >= 300:
            break
    os.kill(worker.pid, signal.SIGKILL)
    # Not communicate(): with a second pipe it reads the raw file and drops lines that are buffered already.
    rest = worker.stdout.read()
    worker.wait()
    acknowledged = max([300, *(int(line) for line in rest.split("\n")[:-1] if line)])
    with catalog.read() as session:
        found = len(session.exec(select(FactSet)).all())
        assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert found in (acknowledged + 1, acknowledged + 2)


def test_full_disk_rolls_back(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="is full") as caught, catalog.write() as session:
        session.connection().exec_driver_sql("PRAGMA max_page_count = 1")
        for number in range(500):
            session.add(FactSet(name=str(number), source="x" * 1000, format=""))
    assert str(caught.value).count("\n") == 0
    with catalog.read() as session:
        assert session.exec(select(FactSet)).all() == []


def test_foreign_sqlite_file_is_not_changed(home: Home) -> None:
    home.prepare()
    other = sqlite3.connect(home.catalog)
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    before = home.catalog.read_bytes()
    with pytest.raises(CatalogError, match="another program"):
        Catalog.open(home)
    assert home.catalog.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_file_that_is_not_a_database(home: Home, content: bytes) -> None:
    home.prepare()
    home.catalog.write_bytes(content)
    with pytest.raises(CatalogError, match=r"corrupt.*backups"):
        Catalog.open(home)


def test_corrupt_page_is_reported(home: Home) -> None:
    catalog = Catalog.open(home)
    with catalog.write() as session:
        for number in range(300):
            session.add(FactSet(name=str(number), source="x" * 500, format=""))
    catalog.close()
    with home.catalog.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096 * 8)
        file.write(b"\xaa" * (size - 4096 * 8))
    with pytest.raises(CatalogError, match="is corrupt"):
        catalog = Catalog.open(home)
        with catalog.read() as session:
            session.exec(select(FactSet)).all()


def test_locked_catalog_is_reported(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retcon.store.catalog.connection.BUSY_SECONDS", 0.1)
    blocker = connect(catalog.home.catalog)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(CatalogError, match="locked by another process"), catalog.write():
        pass
    blocker.close()


def test_opening_imports_neither_alembic_nor_torch(catalog: Catalog) -> None:
    code = (
        "import sys, pathlib, time\n"
        "from retcon.store import home, jobs\n"
        "from retcon.store.catalog import artifacts, catalog, tables\n"
        "from retcon.store.facts import sets\n"
        "from retcon.store.history import history\n"
        "opened = catalog.Catalog.open(home.Home(pathlib.Path(sys.argv[1])))\n"
        "with opened.read() as session: history.find_model\n"
        "print([name for name in ('alembic', 'torch', 'transformers', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(catalog.home.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_worker_does_not_migrate(home: Home) -> None:
    with pytest.raises(CatalogError, match="has version none"):
        Catalog.open(home, migrate=False)


def test_failed_commit_releases_the_lock(catalog: Catalog) -> None:
    """SQLite keeps the transaction of a failed COMMIT, here with a key of a missing row."""
    with pytest.raises(IntegrityError), catalog.write() as session:
        session.add(Fact(fact_set_id=99, position=0, subject="a", prompt="{} is"))
    for durable in (False, True):  # each uses another connection, which would wait for the lock
        with catalog.write(durable=durable) as session:
            session.add(FactSet(name=f"set {durable}", source="here", format="plain"))
    with catalog.read() as session:
        assert len(session.exec(select(FactSet)).all()) == 2
        assert session.exec(select(Fact)).all() == []


def test_no_room_for_shm_is_reported_as_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reports only an I/O error."""
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR
    for free, message in ((0, "is full"), (10**9, "check its disk")):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, usage=usage: usage)
        with pytest.raises(CatalogError, match=message), plain_errors(tmp_path / "catalog.db"):
            raise failed
