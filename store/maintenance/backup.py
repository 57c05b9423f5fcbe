"""Copies of a whole catalog: made while jobs go on, verified, added to, and put back.

A backup is a folder laid out as a home is: the SQLite file, the artifacts that it names, settings and converted
weights, and a `backup.json` that tells where and when. The SQLite file is put there last, so a backup that was cut
off is still the one before it.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ... import __version__
from ..atomic_files import sync_file, sync_folder, write_atomically
from ..catalog.artifacts import ArtifactStore, sha256_of
from ..catalog.catalog import Catalog
from ..catalog.connection import HEAD, connect, copy_database, plain_errors, read_version
from ..errors import ArtifactCorrupt, CatalogError, CatalogTooNew, InputError
from ..home import Home
from .references import digests_in

NOTE = "backup.json"
Report = Callable[[int, int], object]


@dataclass(frozen=True)
class BackupResult:
    """What a backup holds now. `hurt` are artifacts of the catalog that no sound copy was found of."""

    artifacts: int
    bytes: int
    corrupt: list[str] = field(default_factory=list)


def backup_database(catalog: Catalog, target: Path) -> None:
    """A copy of the catalog's file alone (not of the artifacts) while jobs go on. InputError if `target` exists."""
    if target.exists():
        raise InputError(f"{target} exists already: give a file that does not.")
    with _writable(target), plain_errors(catalog.home.catalog):
        copy_database(catalog.home.catalog, target)
    check_database(target)


def back_up(catalog: Catalog, folder: Path, report: Report = lambda _done, _total: None) -> BackupResult:
    """Copy everything into a folder: new, empty, or a backup from before, which is then brought up to date.

    Every artifact in it is hashed again at the end. `report` is told the bytes done and in all.

    Raises:
        InputError: the folder holds something else, or cannot be written to.
    """
    _check_target(folder, catalog.home)
    with _writable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = folder / ".catalog.db"
        fresh.unlink(missing_ok=True)
        # Nothing is removed from the artifacts until all are copied that the copy of the database names.
        with catalog.artifacts.leases.shared():
            with plain_errors(catalog.home.catalog):
                copy_database(catalog.home.catalog, fresh)
            check_database(fresh)
            made = _copy_artifacts(
                _needed(fresh), catalog.artifacts, ArtifactStore(folder / "artifacts"), report
            )
        _copy_tree(catalog.home.hparams, folder / "hparams")
        for weights in _weights(fresh, catalog.home):  # not those that a job is converting now
            _copy_tree(weights, folder / "models" / weights.relative_to(catalog.home.models))
        about = {"retcon": __version__, "migration": HEAD, "home": str(catalog.home.root),
                 "made": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        write_atomically(
            folder / NOTE, lambda path: path.write_text(json.dumps(about, indent=2) + "\n"), private=True
        )
        sync_file(fresh)
        fresh.replace(folder / "catalog.db")
        sync_folder(folder)
    return made


def restore(backup: Path, home: Home, report: Report = lambda _done, _total: None) -> BackupResult:
    """Put a backup (a folder, or a copy of the SQLite file alone) back as the catalog of a home that has none.

    All of it is verified before the catalog appears. Converted weights that moved with it are found at their new place.

    Raises:
        InputError: it is no backup, or the home has a catalog.
        CatalogError: what it holds is damaged, or was made by a newer program.
    """
    if home.catalog.exists():
        raise InputError(
            f"{home.root} has a catalog: move that folder away first, or set RETCON_HOME to another."
        )
    for left in (home.root / "catalog.db-wal", home.root / "catalog.db-shm"):
        if left.exists():  # SQLite would write it into the restored file
            raise InputError(f"{left} is left of another catalog: move it away first; nothing was changed.")
    source = backup / "catalog.db" if backup.is_dir() else backup
    if not source.is_file():
        raise InputError(f"{backup} is no backup of a catalog: there is no file {source}.")
    home.prepare()
    fresh = home.root / ".catalog.db"
    fresh.unlink(missing_ok=True)
    shutil.copyfile(source, fresh)
    fresh.chmod(0o600)
    try:
        check_database(fresh)
        made = BackupResult(0, 0)
        if backup.is_dir():
            store = ArtifactStore(home.artifacts)
            made = _copy_artifacts(_needed(fresh), ArtifactStore(backup / "artifacts"), store, report)
            store.close()
            for part in ("hparams", "models"):
                _copy_tree(backup / part, home.root / part)
            _move_weights(fresh, _home_of(backup), home)
        sync_file(fresh)
        fresh.replace(home.catalog)
        sync_folder(home.root)
    finally:
        fresh.unlink(missing_ok=True)
    return made


def check_database(path: Path) -> None:
    """Raise CatalogError unless this is a whole catalog of this version or an older one."""
    with plain_errors(path):
        version = read_version(path)
        if version is None:
            raise CatalogError(f"{path} holds no catalog.")
        if version > HEAD:
            raise CatalogTooNew(
                f"{path} is at version {version}, this is retcon {__version__}, which knows only up to {HEAD}: "
                "install the newer retcon."
            )
        connection = connect(path)
        try:
            found = [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
            found += [
                f"row {row} of {table}" for table, row, *_ in connection.execute("PRAGMA foreign_key_check")
            ]
        finally:
            connection.close()
    if found:
        raise CatalogError(f"{path} is damaged ({found[0]}): take another backup.")


def _check_target(folder: Path, home: Home) -> None:
    if folder.resolve() == home.root.resolve() or home.root.resolve() in folder.resolve().parents:
        raise InputError(f"{folder} lies in the home folder itself: give one on another disk.")
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder} is a file: give a folder, or a name that ends in .db for the database alone."
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NOTE).is_file():
        # One that was cut off has no note yet, but the copy of the database that comes first.
        if (folder / ".catalog.db").exists():
            return
        raise InputError(f"{folder} is not empty and is no backup of retcon's: give a new folder.")


def _needed(database: Path) -> list[str]:
    """The artifacts that the rows of a copy name, as `needs.find_references` says of an open catalog."""
    connection = connect(database)
    try:
        named = connection.execute(
            "SELECT delta FROM revision WHERE delta IS NOT NULL UNION SELECT artifact FROM covariance"
        ).fetchall()
        jobs = connection.execute("SELECT spec || checkpoint FROM job WHERE state != 'done'").fetchall()
    finally:
        connection.close()
    kept = [digest for (text,) in jobs for digest in digests_in(text)]
    return sorted({*kept, *(digest for (digest,) in named)})


def _copy_artifacts(
    digests: list[str], source: ArtifactStore, target: ArtifactStore, report: Report
) -> BackupResult:
    sizes = {digest: source.size(digest) for digest in digests}
    total, done, hurt = sum(sizes.values()), 0, []
    for digest, size in sizes.items():
        report(done, total)
        # Hashed, not only looked for: an old copy may have rotted too, and is then made anew.
        if target.verify(digest) is not None:
            try:
                target.put_file(source.path(digest))
            except ArtifactCorrupt:
                hurt.append(digest)
            else:
                if found := target.verify(digest):
                    raise CatalogError(f"{found.path}, just written, {found.problem}: see that disk.")
        done += size
        report(done, total)
    target.close()
    return BackupResult(len(digests) - len(hurt), total, hurt)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy the files that are new or changed (by size and time); each is compared by its hash."""
    for path in _files(source):
        copy = target / path.relative_to(source)
        found = path.stat()
        if copy.is_file() and (copy.stat().st_size, copy.stat().st_mtime_ns) == (
            found.st_size,
            found.st_mtime_ns,
        ):
            continue
        _private_folders(copy.parent)
        partial = copy.with_name(f".{copy.name}.partial")
        shutil.copyfile(path, partial)
        partial.chmod(0o600)
        os.utime(partial, ns=(found.st_atime_ns, found.st_mtime_ns))
        sync_file(partial)
        if sha256_of(partial) != sha256_of(path):
            raise CatalogError(
                f"{path} changed while it was copied, or {partial} was not written right: repeat this."
            )
        partial.replace(copy)
        sync_folder(copy.parent)


def _private_folders(folder: Path) -> None:
    if not folder.is_dir():
        _private_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _weights(database: Path, home: Home) -> list[Path]:
    """Where the models of a copy have weights that lie in the home."""
    connection = connect(database)
    try:
        paths = [Path(path) for (path,) in connection.execute("SELECT path FROM model")]
    finally:
        connection.close()
    return [path for path in paths if home.models in path.parents and path.is_dir()]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _home_of(backup: Path) -> str:
    try:
        return str(json.loads((backup / NOTE).read_text(encoding="utf-8"))["home"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{backup / NOTE} does not tell which home the backup is of ({error}).") from error


def _move_weights(database: Path, old: str, home: Home) -> None:
    """Weights that lay in the old home lie in the new one."""
    connection = connect(database)
    try:
        before = f"{old}/models/"
        connection.execute(
            "UPDATE model SET path = ? || substr(path, ?) WHERE substr(path, 1, ?) = ?",
            (f"{home.models}/", len(before) + 1, len(before), before),
        )
    except sqlite3.Error as error:
        raise CatalogError(f"{database} cannot be changed ({error}).") from error
    finally:
        connection.close()


@contextmanager
def _writable(place: Path) -> Iterator[None]:
    """What the system says about a place that the user named, as an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{place} cannot be written ({error.strerror or error}): give another place."
        ) from error
