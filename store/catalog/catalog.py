"""The catalog: one SQLite file, opened by the terminal and by every worker at the same time."""

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

    Rows stay usable after their session as plain data: nothing expires at commit.
    """

    def __init__(self, home: Home) -> None:
        """Use `Catalog.open`, which also creates, checks and migrates."""
        self.home = home
        self._engines: dict[str, Engine] = {}
        self._version_connection: sqlite3.Connection | None = None
        self._lock = Lock()
        # Connections of `read_connection` that nobody uses at the moment.
        self._idle_readers: list[sqlite3.Connection] = []

    @classmethod
    def open(cls, home: Home | None = None, *, migrate: bool = True) -> "Catalog":
        """Open the catalog of `home` (the user's own by default); create and migrate it if needed.

        Workers pass `migrate=False`: only the process that a person started may change the tables.
        Raises InputError for an unsafe home, CatalogTooNew, and CatalogError for a file that is damaged, is
        not a catalog, or (with `migrate=False`) is of another version.
        """
        home = home or Home(default_home())
        home.prepare()
        with plain_errors(home.catalog):
            _create_file(home.catalog)
            version = read_version(home.catalog)
            if version != HEAD:
                if not migrate:
                    raise CatalogError(
                        f"The catalog {home.catalog} is at version {version or 'none'}, this program needs "
                        f"{HEAD}: open it once with the `retcon` that starts the jobs."
                    )
                from .migrate import upgrade

                upgrade(home)
            elif not has_wal(home.catalog):
                set_wal(home.catalog)  # a backup, put back in its place
        return cls(home)

    @cached_property
    def artifacts(self) -> "ArtifactStore":
        """The large files."""
        from .artifacts import ArtifactStore

        return ArtifactStore(self.home.artifacts)

    @contextmanager
    def read_connection(self) -> Iterator[sqlite3.Connection]:
        """One consistent view for plain SQL that only reads; what the app's lists use, as it loads no SQLModel.

        Keep it short, as with `read`. JSON and datetimes come as the text that they are stored as.
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
        """One consistent view of the catalog. Keep it short: while it lasts the WAL cannot shrink."""
        from sqlmodel import Session

        with (
            plain_errors(self.home.catalog),
            Session(self._engine("read"), expire_on_commit=False) as session,
        ):
            yield session

    @contextmanager
    def write(self, *, durable: bool = False) -> "Iterator[Session]":
        """One transaction, with the write lock from its start; committed at the end, undone on an exception.

        A kill loses nothing that was committed. A power cut may lose the last commits unless `durable`, which
        waits for the disk: for an edit, a rollback, a publication. Never nest two.
        """
        from sqlmodel import Session

        engine = self._engine("durable" if durable else "write")
        with plain_errors(self.home.catalog), Session(engine, expire_on_commit=False) as session:
            session.connection()  # takes the lock now, not at the first statement
            yield session
            session.commit()

    def _engine(self, use: str) -> "Engine":
        """The engine for a use, made when it is first needed."""
        with self._lock:
            if use not in self._engines:
                begin: Literal["BEGIN", "BEGIN IMMEDIATE"] = "BEGIN" if use == "read" else "BEGIN IMMEDIATE"
                synchronous: Literal["NORMAL", "FULL"] = "FULL" if use == "durable" else "NORMAL"
                self._engines[use] = make_engine(
                    self.home.catalog, begin, synchronous=synchronous, query_only=use == "read"
                )
            return self._engines[use]

    def data_version(self) -> int:
        """A number that changes when anyone, this process included, has committed; some microseconds."""
        # SQLite counts the commits of all connections but the one that asks: so one that never writes asks.
        with self._lock, plain_errors(self.home.catalog):
            if self._version_connection is None:
                self._version_connection = connect(self.home.catalog)
            return int(self._version_connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close every connection; the catalog must not be used after."""
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
    """An empty file with mode 0600, which SQLite gives its -wal and -shm too. One that is there stays."""
    # O_EXCL never opens a file that exists: to close a second descriptor of the database in this process
    # would drop the locks that SQLite holds on it.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise CatalogError(f"The catalog {path} cannot be made ({error.strerror}): see its disk.") from error
