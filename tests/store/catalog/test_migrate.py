"""Migrations: fresh, populated, failing, too new, and several processes at once."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel, select

from retcon import __version__
from retcon.store.catalog import catalog as catalog_module
from retcon.store.catalog import migrate
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import HEAD, connect, make_engine, read_version
from retcon.store.catalog.tables import AppVersion, HeadMove, Model, Revision, Trace, TraceResult
from retcon.store.errors import CatalogError, CatalogTooNew
from retcon.store.history import history
from retcon.store.home import Home

WORKERS = "retcon.tests.helpers.workers"

ALTER_PARENTS = """
with op.batch_alter_table("model") as batch:
    batch.add_column(sa.Column("note", sa.String(), nullable=False, server_default=""))
with op.batch_alter_table("revision") as batch:
    batch.alter_column("message", existing_type=sa.String(), nullable=True)
"""


def scripts_with(folder: Path, body: str) -> Path:
    """A copy of the migrations with an additional one, "0002", that runs `body`."""
    copy = folder / "migrations"
    shutil.copytree(migrate.SCRIPTS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    (copy / "versions" / "0002_test.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        'revision = "0002"\ndown_revision = "0001"\nbranch_labels = None\ndepends_on = None\n\n\n'
        f"def upgrade() -> None:\n{lines}\n"
    )
    return copy


def dump(path: Path) -> list[str]:
    connection = connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


@pytest.fixture
def populated(home: Home, model: Model) -> Home:
    catalog = Catalog.open(home)
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        edit = Revision(model_id=model.id, parent=base.id, kind="edit", fingerprint="f1", message="moved")
        history.commit_revision(session, model, edit, "edit")
        trace = Trace(model_id=model.id, revision=edit.id, noise="3s", samples=10, window=10, seed=1)
        session.add(trace)
        session.flush()
        assert trace.id is not None
        for position in range(20):
            session.add(
                TraceResult(trace_id=trace.id, position=position, prompt="p", subject="s", subject_begin=0,
                            subject_end=1, answer="a", scores={"hidden": {"window": 1, "scores": [[0.5]]}})
            )  # fmt: skip
    catalog.close()
    return home


def test_new_catalog_has_head_and_app_version(catalog: Catalog) -> None:
    assert read_version(catalog.home.catalog) == HEAD
    with catalog.read() as session:
        rows = session.exec(select(AppVersion)).all()
    assert [(row.migration, row.version) for row in rows] == [(HEAD, __version__)]
    assert rows[0].created.utcoffset() is not None
    assert list(catalog.home.backups.iterdir()) == []


def test_head_constant_equals_newest_script() -> None:
    assert ScriptDirectory.from_config(migrate.configuration()).get_heads() == [HEAD]


def test_migrations_match_models(catalog: Catalog) -> None:
    engine = make_engine(catalog.home.catalog, "BEGIN", pooled=False)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_migrations_match_constraints(catalog: Catalog, tmp_path: Path) -> None:
    # compare_metadata ignores CHECK, ON DELETE and AUTOINCREMENT: compare the normalized SQL too.
    plain = tmp_path / "plain.db"
    sqlite3.connect(plain).close()
    engine = make_engine(plain, "BEGIN IMMEDIATE", pooled=False)
    with engine.begin() as connection:
        SQLModel.metadata.create_all(connection)

    def tables(path: Path) -> dict[str, list[str]]:
        connection = connect(path)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        connection.close()
        return {
            name: sorted(line.strip().rstrip(",").replace('"', "") for line in sql.splitlines())
            for name, sql in rows
            if name not in ("alembic_version", "sqlite_sequence")
        }

    assert tables(catalog.home.catalog) == tables(plain)


def test_four_processes_create_one_catalog(home: Home) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", WORKERS, "open_fresh", str(home.root)], stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    catalog = Catalog.open(home)
    with catalog.read() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM job").scalar() == 4
        assert len(session.exec(select(AppVersion)).all()) == 1


def test_migration_keeps_every_row(populated: Home, tmp_path: Path) -> None:
    tables = ("model", "revision", "head_move", "trace", "trace_result")

    def rows() -> dict[str, list[tuple[object, ...]]]:
        connection = connect(populated.catalog)
        found = {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall() for name in tables
        }
        connection.close()
        return found

    before = rows()
    migrate.upgrade(populated, scripts=scripts_with(tmp_path, ALTER_PARENTS), head="0002")
    after = rows()
    before["model"] = [(*row, "") for row in before["model"]]
    assert after == before
    assert len(after["trace_result"]) == 20
    connection = connect(populated.catalog)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("SELECT migration FROM app_version").fetchall() == [("0001",), ("0002",)]
    # The keys of the child rows still cascade from the new table.
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("DELETE FROM model")
    assert connection.execute("SELECT count(*) FROM trace_result").fetchone() == (0,)
    connection.close()


def test_migration_makes_a_complete_backup(populated: Home, tmp_path: Path) -> None:
    before = dump(populated.catalog)
    migrate.upgrade(populated, scripts=scripts_with(tmp_path, ALTER_PARENTS), head="0002")
    (backup,) = populated.backups.iterdir()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert dump(backup) == before
    # Restoring the backup as the message describes repairs the catalog.
    for suffix in ("-wal", "-shm"):
        Path(f"{populated.catalog}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, populated.catalog)
    catalog = Catalog.open(populated)
    with catalog.read() as session:
        assert len(session.exec(select(HeadMove)).all()) == 2


def test_old_backups_are_deleted(populated: Home, tmp_path: Path) -> None:
    for number in range(7):
        (populated.backups / f"catalog-2020010{number}T000000000000-0001.db").write_bytes(b"old")
    migrate.upgrade(populated, scripts=scripts_with(tmp_path, ALTER_PARENTS), head="0002")
    kept = sorted(path.name for path in populated.backups.iterdir())
    assert len(kept) == migrate.KEPT_BACKUPS
    assert not kept[-1].startswith("catalog-2020")


@pytest.mark.parametrize(
    "body",
    [
        'op.create_table("extra", sa.Column("id", sa.Integer()))\n'
        + ALTER_PARENTS
        + "raise RuntimeError('half')",
        'op.execute("CREATE TABLE extra (id INTEGER)")\nop.execute("nonsense")',
    ],
)
def test_failed_migration_changes_nothing(populated: Home, tmp_path: Path, body: str) -> None:
    before = dump(populated.catalog)
    with pytest.raises(Exception, match=r"half|nonsense"):
        migrate.upgrade(populated, scripts=scripts_with(tmp_path / "bad", body), head="0002")
    assert dump(populated.catalog) == before
    # The corrected migration succeeds.
    migrate.upgrade(populated, scripts=scripts_with(tmp_path / "good", ALTER_PARENTS), head="0002")
    assert read_version(populated.catalog) == "0002"


def test_orphaning_migration_rolls_back(populated: Home, tmp_path: Path) -> None:
    before = dump(populated.catalog)
    with pytest.raises(CatalogError, match="trace_result"):
        migrate.upgrade(
            populated, scripts=scripts_with(tmp_path, 'op.execute("DELETE FROM trace")'), head="0002"
        )
    assert dump(populated.catalog) == before


def test_newer_catalog_is_rejected(populated: Home, tmp_path: Path) -> None:
    migrate.upgrade(populated, scripts=scripts_with(tmp_path, ALTER_PARENTS), head="0002")
    connection = connect(populated.catalog)
    connection.execute("UPDATE app_version SET version = '9.8.7' WHERE migration = '0002'")
    connection.close()
    before = dump(populated.catalog)
    with pytest.raises(CatalogTooNew) as caught:
        Catalog.open(populated)
    message = str(caught.value)
    assert "0002" in message and "9.8.7" in message
    assert __version__ in message and HEAD in message
    assert "install the newer retcon" in message and "\n" not in message
    assert dump(populated.catalog) == before


def test_worker_rejects_older_catalog(populated: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "HEAD", "0002")
    with pytest.raises(CatalogError, match="has version 0001, this program needs 0002"):
        Catalog.open(populated, migrate=False)


def test_home_with_special_characters(tmp_path: Path) -> None:
    catalog = Catalog.open(Home(tmp_path / "100% ?odd#name é"))
    assert catalog.data_version() >= 1
    assert catalog.home.catalog.is_file()
