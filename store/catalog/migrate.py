"""Migrate a catalog to the version of this program. The only module that imports Alembic."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from ... import __version__
from ..errors import CatalogError, CatalogTooNew
from ..home import Home
from .connection import APPLICATION_ID, HEAD, connect, copy_database, make_engine, read_version, set_wal

KEPT_BACKUPS = 5
SCRIPTS = Path(__file__).parents[2] / "migrations"

_APP_VERSION = sa.table(
    "app_version",
    sa.column("migration", sa.String),
    sa.column("version", sa.String),
    sa.column("created", sa.DateTime),
)


def configuration(scripts: Path = SCRIPTS) -> Config:
    """Alembic's settings in memory: an installed program has no alembic.ini."""
    config = Config()
    # ConfigParser interprets % in values.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(home: Home, *, scripts: Path = SCRIPTS, head: str = HEAD) -> None:
    """Run the missing migrations in one transaction. An existing catalog is backed up before.

    Several processes may call this at once: one migrates, the others then have nothing to do. If a migration fails, the
    catalog does not change. Raises CatalogTooNew if a newer program migrated it, and CatalogError if rows would refer
    to missing rows.
    """
    config = configuration(scripts)
    known = ScriptDirectory.from_config(config)
    with _lock(home):
        before = read_version(home.catalog)
        if before == head:
            return
        missing = _missing(known, before, head, home)
        set_wal(home.catalog)
        # Foreign keys are off: SQLite alters a table by dropping the old one, which would delete the rows of its
        # children. The pragma has no effect inside a transaction, so the connection sets it.
        engine = make_engine(
            home.catalog, "BEGIN IMMEDIATE", synchronous="FULL", foreign_keys=False, pooled=False
        )
        with engine.begin() as connection:
            if before is not None:
                # No other process can write now, and the copy has the state before the migration.
                _backup(home, before)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            config.attributes["connection"] = connection
            command.upgrade(config, head)
            _check_foreign_keys(connection, home)
            created = datetime.now(UTC).replace(tzinfo=None)  # as the models store it: UTC without a zone
            for revision in missing:
                connection.execute(
                    _APP_VERSION.insert().values(migration=revision, version=__version__, created=created)
                )


def _missing(known: ScriptDirectory, before: str | None, head: str, home: Home) -> list[str]:
    """The migrations to run, oldest first."""
    try:
        if before is not None:
            known.get_revision(before)
        steps = list(known.iterate_revisions(head, before or "base"))
    except CommandError as error:
        if before is None:
            raise
        raise CatalogTooNew(
            f"The catalog {home.catalog} has version {before} of retcon {_writer(home.catalog)}; "
            f"this is retcon {__version__}, which supports versions up to {head}: install the newer retcon, or set "
            "RETCON_HOME to another folder."
        ) from error
    return [step.revision for step in reversed(steps)]


def _writer(path: Path) -> str:
    """The program version that ran the newest migration, or `(unknown, newer)` if that table has changed."""
    with closing(connect(path)) as connection, suppress(sqlite3.OperationalError):
        if row := connection.execute("SELECT version FROM app_version ORDER BY id DESC LIMIT 1").fetchone():
            return str(row[0])
    return "(unknown, newer)"


def _backup(home: Home, version: str) -> None:
    """Copy the catalog to the backups and delete all but the newest KEPT_BACKUPS."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    copy_database(home.catalog, home.backups / f"catalog-{stamp}-{version}.db")
    for old in sorted(home.backups.glob("catalog-*.db"))[:-KEPT_BACKUPS]:
        old.unlink(missing_ok=True)


def _check_foreign_keys(connection: sa.Connection, home: Home) -> None:
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if orphans:
        tables = ", ".join(sorted({str(row[0]) for row in orphans}))
        raise CatalogError(
            f"The catalog {home.catalog} was not migrated: {len(orphans)} rows of {tables} would refer to "
            "missing rows. It did not change; please report this."
        )


@contextmanager
def _lock(home: Home) -> Iterator[None]:
    """Allow one process at a time. BEGIN IMMEDIATE does not protect the switch to WAL."""
    descriptor = os.open(home.locks / "migrate.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
