"""Connections to SQLite: pragmas, the two kinds of transaction, the version of the file, and readable errors.

SQLAlchemy is imported only by `make_engine`: the app draws its first screen and all lists without it, in half of the
start time and a third of the memory.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import CatalogError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

# The newest migration. A test compares it with the scripts. Opening a catalog of this version does not import Alembic,
# which takes about as long as the rest of the start.
HEAD = "0001"
# In the header of the file: identifies an SQLite file as a catalog.
APPLICATION_ID = int.from_bytes(b"rtcn", "big")
# The largest integer that SQLite stores.
MAX_INTEGER = 2**63 - 1
# How long a transaction waits for the transaction of another process.
BUSY_SECONDS = 30.0
_WAL_LIMIT_BYTES = 64 * 1024 * 1024
# Its index, the -shm file, grows by as much.
_WAL_NEEDS_BYTES = 32 * 1024


def connect(path: Path) -> sqlite3.Connection:
    """A plain connection in autocommit mode, for statements without models. The file must exist.

    Python's `timeout` sets SQLite's busy_timeout before the first statement: the file can be locked for a pragma too.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def make_engine(
    path: Path,
    begin: Literal["BEGIN", "BEGIN IMMEDIATE"],
    *,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    query_only: bool = False,
    foreign_keys: bool = True,
    pooled: bool = True,
) -> "Engine":
    """An engine whose transactions start with `begin`.

    A deferred BEGIN that reads and then writes fails at once if another process wrote in between, whatever the timeout.
    So writing transactions start with BEGIN IMMEDIATE; reading ones need no lock and start with BEGIN.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool, QueuePool

    # Explicit pool class: the default for this URL closes connections that other threads still use.
    engine = create_engine(
        "sqlite://", creator=lambda: connect(path), poolclass=QueuePool if pooled else NullPool
    )

    def prepare(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions: DDL would commit half of a migration.
        connection.isolation_level = None
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        if query_only:
            connection.execute("PRAGMA query_only = ON")

    def start(connection: "Connection") -> None:
        connection.exec_driver_sql(begin)
        # Keys are checked at the commit: without mapped relationships, SQLAlchemy saves rows in any order.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")

    def end(connection: Any, _record: Any) -> None:
        # After a failed COMMIT (a broken key, a full disk), SQLite keeps the transaction and its lock, and SQLAlchemy
        # does not roll back.
        if connection is not None and connection.in_transaction:
            connection.rollback()

    event.listen(engine, "connect", prepare)
    event.listen(engine, "checkin", end)
    event.listen(engine, "begin", start)
    return engine


def has_wal(path: Path) -> bool:
    """Whether the file has a write-ahead log. Reading the file directly would release the locks of this process."""
    with closing(connect(path)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return bool(mode == "wal")


def set_wal(path: Path) -> None:
    """Switch to the write-ahead log, permanently. Readers then do not wait for writers."""
    with closing(connect(path)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise CatalogError(
            f"The filesystem of {path} does not support SQLite's WAL: set RETCON_HOME to a local disk."
        )


def copy_database(source: Path, target: Path) -> None:
    """Copy the database consistently while other processes read and write. A copy of the file alone lacks the WAL.

    `target` (mode 0600) must not exist. It is renamed to its name when it is complete.
    """
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    try:
        with closing(connect(source)) as origin, closing(connect(partial)) as copy:
            origin.backup(copy)
            # A single file, without a -wal beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read_version(path: Path) -> str | None:
    """The migration of the file, None for an empty file. Raises CatalogError if it is not a catalog."""
    with closing(connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in rows}
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID and (tables or application_id != 0):
            raise CatalogError(
                f"{path} is an SQLite file of another program: move it away, or set RETCON_HOME to another "
                "folder."
            )
        if "alembic_version" not in tables:
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None


def find_problems(connection: sqlite3.Connection) -> list[str]:
    """The problems of a database that SQLite finds: corrupt pages, and keys that refer to missing rows."""
    problems = [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
    keys = connection.execute("PRAGMA foreign_key_check")
    return problems + [f"row {row} of {table} refers to a missing row of {to}" for table, row, to, _ in keys]


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Convert errors of SQLite about the file at `path` into a CatalogError with one sentence.

    Errors of the program (a broken constraint, wrong SQL) pass unchanged: they are bugs.
    """
    try:
        yield
    except Exception as error:
        # SQLAlchemy wraps the error of SQLite and keeps it in `orig`.
        cause = error if isinstance(error, sqlite3.Error) else getattr(error, "orig", None)
        if isinstance(cause, sqlite3.Error) and (sentence := _sentence(cause, path)):
            raise CatalogError(sentence) from error
        raise


def _sentence(error: sqlite3.Error, path: Path) -> str | None:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # If the disk is too full for the -shm file of the WAL, SQLite only reports an I/O error.
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return f"The disk that holds {path} is full; this step was not saved: free some space and repeat it."
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            f"The catalog {path} is corrupt ({error}): move it and its -wal and -shm files away, "
            f"then copy the newest file of {path.parent / 'backups'} to {path}."
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return (
            f"The catalog {path} was locked by another process for more than {BUSY_SECONDS:.0f} s: "
            "end that process or wait for it, then repeat this step."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
        return f"The catalog {path} cannot be opened for writing ({error}): check the permissions."
    if code == sqlite3.SQLITE_IOERR:
        return f"The catalog {path} cannot be read or written ({error}): check its disk."
    return None


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _WAL_NEEDS_BYTES
    except OSError:
        return False
