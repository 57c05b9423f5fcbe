"""Import broken files into a home and count the outcomes."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.catalog.tables import Revision
from retcon.store.errors import InputError
from retcon.store.history import history
from retcon.store.home import Home
from retcon.tests.helpers.bundle_catalog import with_model

Files = dict[str, bytes]


@dataclass(frozen=True)
class Importer:
    """`run` imports from a folder; `files` are broken files for it, by name."""

    name: str
    files: st.SearchStrategy[Files]
    run: Callable[[Catalog, Path], object]


@dataclass
class Tally:
    """Counts of the outcomes. All but the first two are faults of the program."""

    accepted: int = 0
    rejected: int = 0
    tracebacks: int = 0
    partly_written: int = 0
    leftover_files: int = 0
    inconsistent: int = 0
    complaints: list[str] = field(default_factory=list)


class Bench:
    """A home with a model, restored after each successful import, and a folder for the files."""

    def __init__(self, folder: Path) -> None:
        self.inbox = folder / "inbox"
        self._home = folder / "home"
        with_model(self._home).close()
        shutil.copy(self._home / "catalog.db", folder / "template.db")
        self._template = connect(folder / "template.db")
        self.catalog = Catalog.open(Home(self._home))

    def _restore(self) -> None:
        """Restore the rows. The catalog stays open: preparing its statements takes most of the time."""
        connection = connect(self._home / "catalog.db")
        self._template.backup(connection)
        connection.close()

    def try_import(self, importer: Importer, files: Files, tally: Tally) -> None:
        """Import the files and count the outcome."""
        shutil.rmtree(self.inbox, ignore_errors=True)
        self.inbox.mkdir()
        for name, data in files.items():
            (self.inbox / name).parent.mkdir(exist_ok=True)
            (self.inbox / name).write_bytes(data)
        version, before = self.catalog.data_version(), self._listing()
        complaint = None
        try:
            importer.run(self.catalog, self.inbox)
        except InputError:
            tally.rejected += 1
            if self.catalog.data_version() != version:
                tally.partly_written, complaint = tally.partly_written + 1, "rejected, but rows were written"
            elif self._listing() != before:
                tally.leftover_files, complaint = tally.leftover_files + 1, "rejected, but files remain"
        except Exception as error:  # the command line would print a traceback
            tally.tracebacks, complaint = tally.tracebacks + 1, f"{type(error).__name__}: {error}"
        else:
            tally.accepted += 1
            if self.catalog.data_version() != version:
                complaint = self._find_inconsistency()
                tally.inconsistent += complaint is not None
                self._restore()
        if complaint is not None:
            tally.complaints.append(f"{importer.name}: {complaint[:300]}")

    def _listing(self) -> set[Path]:
        """The files of the home without artifacts: `catalog gc` deletes unreferenced ones."""
        root = self._home
        return {path for path in root.rglob("*") if path.is_file() and not _is_artifact(path)}

    def _find_inconsistency(self) -> str | None:
        """Broken keys, a corrupt file, or a broken path to the base."""
        connection = connect(self._home / "catalog.db")
        try:
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        finally:
            connection.close()
        if broken or integrity != "ok":
            return f"inconsistent: {broken} {integrity}"
        with self.catalog.read() as session:
            model = history.find_model(session, "tiny")
            path = history.load_path(session, model.head or "")
            if path[0].kind != "base" or not all(isinstance(step, Revision) for step in path):
                return "inconsistent: no path from the head to the base"
        return None

    def close(self) -> None:
        self._template.close()
        self.catalog.close()


def _is_artifact(path: Path) -> bool:
    return path.parent.parent.name == "artifacts" or path.parent.name == "artifacts"
