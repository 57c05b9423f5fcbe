"""The catalog: one SQLite file that the terminal and all workers open at the same time."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from ..errors import CatalogError
from ..home import Home
from ..home import home as default_home
from .connection import HEAD, connect, has_wal, make_engine, plain_errors, read_version, set_wal

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlmodel import Session

    from .artifacts import ArtifactStore


class Catalog:
    """An open catalog. Threads may share it; a forked child must open its own.

    Rows remain usable as plain data after their session: they do not expire at the commit.
    """

    def __init__(self, home: Home) -> None:
        """Call `Catalog.open` instead: it creates, checks and migrates the file."""
        self.home = home
        self._engines: dict[str, Engine] = {}
        self._version_connection: sqlite3.Connection | None = None
        self._lock = Lock()
        # Unused connections of `read_connection`.
        self._idle_readers: list[sqlite3.Connection] = []

    @classmethod
    def open(cls, home: Home | None = None, *, migrate: bool = True) -> "Catalog":
        """Open the catalog of `home` (by default `$RETCON_HOME`). Creates and migrates it if needed.

        Workers pass `migrate=False`: only the terminal may change the tables. Raises InputError for an unsafe home,
        CatalogTooNew, and CatalogError for a file that is corrupt, is not a catalog, or (with `migrate=False`) has
        another version.
        """
        home = home or Home(default_home())
        home.prepare()
        with plain_errors(home.catalog):
            _create_file(home.catalog)
            version = read_version(home.catalog)
            if version != HEAD:
                if not migrate:
                    raise CatalogError(
                        f"The catalog {home.catalog} has version {version or 'none'}, this program needs "
                        f"{HEAD}: open it once with the `retcon` that starts the jobs."
                    )
                from .migrate import upgrade

                upgrade(home)
            elif not has_wal(home.catalog):
                set_wal(home.catalog)  # a restored backup
        return cls(home)

    @cached_property
    def artifacts(self) -> "ArtifactStore":
        """The store of large files."""
        from .artifacts import ArtifactStore

        return ArtifactStore(self.home.artifacts)

    @contextmanager
    def read_connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for plain SQL that only reads one consistent view. Loads no SQLModel, for the lists of the app.

        Keep it short, as with `read`. JSON and datetimes are the stored text.
        """
        with plain_errors(self.home.catalog):
            connection = self._open_reader()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._idle_readers.append(connection)

    def _open_reader(self) -> sqlite3.Connection:
        try:
            return self._idle_readers.pop()
        except IndexError:
            connection = connect(self.home.catalog)
            connection.execute("PRAGMA query_only = ON")
            return connection

    @contextmanager
    def read(self) -> "Iterator[Session]":
        """A session that reads one consistent view. Keep it short: the WAL cannot shrink meanwhile."""
        from sqlmodel import Session

        with (
            plain_errors(self.home.catalog),
            Session(self._engine("read"), expire_on_commit=False) as session,
        ):
            yield session

    @contextmanager
    def write(self, *, durable: bool = False) -> "Iterator[Session]":
        """One transaction with the write lock. Commits at the end, rolls back on an exception. Do not nest two.

        A kill loses no commit. A power cut may lose the last commits, unless `durable`, which waits for the disk: for
        edits, rollbacks and publications.
        """
        from sqlmodel import Session

        engine = self._engine("durable" if durable else "write")
        with plain_errors(self.home.catalog), Session(engine, expire_on_commit=False) as session:
            session.connection()  # takes the lock now instead of at the first statement
            yield session
            session.commit()

    def _engine(self, use: str) -> "Engine":
        """The engine for a use, created at its first use."""
        with self._lock:
            if use not in self._engines:
                begin: Literal["BEGIN", "BEGIN IMMEDIATE"] = "BEGIN" if use == "read" else "BEGIN IMMEDIATE"
                synchronous: Literal["NORMAL", "FULL"] = "FULL" if use == "durable" else "NORMAL"
                self._engines[use] = make_engine(
                    self.home.catalog, begin, synchronous=synchronous, query_only=use == "read"
                )
            return self._engines[use]

    def data_version(self) -> int:
        """A number that changes after each commit of any process. Takes some microseconds."""
        # SQLite counts the commits of all other connections: this connection never writes.
        with self._lock, plain_errors(self.home.catalog):
            if self._version_connection is None:
                self._version_connection = connect(self.home.catalog)
            return int(self._version_connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close all connections. The catalog cannot be used afterwards."""
        with self._lock:
            if self._version_connection is not None:
                self._version_connection.close()
                self._version_connection = None
        if "artifacts" in vars(self):  # it was used
            self.artifacts.close()
        while self._idle_readers:
            self._idle_readers.pop().close()
        for engine in self._engines.values():
            engine.dispose()


def _create_file(path: Path) -> None:
    """Create an empty file with mode 0600, which SQLite copies to -wal and -shm. An existing file stays."""
    # O_EXCL never opens an existing file: closing a second descriptor of the database in this process would drop
    # the locks of SQLite.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise CatalogError(
            f"The catalog {path} cannot be created ({error.strerror}): check its disk."
        ) from error
