"""Backups of a whole catalog: made while jobs run, verified, updated, and restored.

A backup is a folder with the layout of a home: the SQLite file, its artifacts, settings and converted weights, and a
`backup.json` with the home and the time. The SQLite file is written last: an interrupted update leaves the previous
backup.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ... import __version__
from ..atomic_files import check_new_file, sync_path, write_atomically
from ..catalog.artifacts import ArtifactStore, sha256_of
from ..catalog.catalog import Catalog
from ..catalog.connection import HEAD, connect, copy_database, find_problems, plain_errors, read_version
from ..errors import ArtifactCorrupt, CatalogError, CatalogTooNew, InputError
from ..home import Home
from .references import digests_in

INFO_FILE = "backup.json"
Report = Callable[[int, int], object]


@dataclass(frozen=True)
class BackupResult:
    """The content of a backup. `corrupt` lists artifacts without an intact copy."""

    artifacts: int
    bytes: int
    corrupt: list[str] = field(default_factory=list)


def backup_database(catalog: Catalog, target: Path) -> None:
    """Copy the database without the artifacts, while jobs may run. Raises InputError if `target` exists."""
    check_new_file(target)
    with _output_errors(target), plain_errors(catalog.home.catalog):
        copy_database(catalog.home.catalog, target)
    check_database(target)


def back_up(catalog: Catalog, folder: Path, report: Report = lambda _done, _total: None) -> BackupResult:
    """Copy everything into a new or empty folder, or update an existing backup. Hashes every artifact of the backup.

    Calls `report(bytes done, all bytes)`. Raises InputError if the folder has other content or cannot be written.
    """
    _check_target(folder, catalog.home)
    with _output_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial_db = folder / ".catalog.db"
        partial_db.unlink(missing_ok=True)
        # The lock keeps all artifacts until those of the copied database are copied.
        with catalog.artifacts.leases.shared():
            with plain_errors(catalog.home.catalog):
                copy_database(catalog.home.catalog, partial_db)
            check_database(partial_db)
            result = _copy_artifacts(
                _list_referenced(partial_db), catalog.artifacts, ArtifactStore(folder / "artifacts"), report
            )
        _copy_tree(catalog.home.hparams, folder / "hparams")
        for weights in _weights(partial_db, catalog.home):  # without those that a job is converting now
            _copy_tree(weights, folder / "models" / weights.relative_to(catalog.home.models))
        about = {"retcon": __version__, "migration": HEAD, "home": str(catalog.home.root),
                 "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        write_atomically(
            folder / INFO_FILE, lambda path: path.write_text(json.dumps(about, indent=2) + "\n"), private=True
        )
        sync_path(partial_db)
        partial_db.replace(folder / "catalog.db")
        sync_path(folder)
    return result


def restore(backup: Path, home: Home, report: Report = lambda _done, _total: None) -> BackupResult:
    """Restore a backup (a folder, or a copy of the database alone) into a home without a catalog.

    Verifies all of it first. Updates the paths of converted weights. Raises InputError if it is not a backup or the
    home has a catalog, CatalogError if it is corrupt or of a newer program.
    """
    if home.catalog.exists():
        raise InputError(
            f"{home.root} has a catalog: move that folder away first, or set RETCON_HOME to another."
        )
    for remainder in (home.root / "catalog.db-wal", home.root / "catalog.db-shm"):
        if remainder.exists():  # SQLite would apply it to the restored file
            raise InputError(
                f"{remainder} belongs to another catalog: move it away first. Nothing was changed."
            )
    source = backup / "catalog.db" if backup.is_dir() else backup
    if not source.is_file():
        raise InputError(f"{backup} is not a backup of a catalog: there is no file {source}.")
    home.prepare()
    partial_db = home.root / ".catalog.db"
    partial_db.unlink(missing_ok=True)
    shutil.copyfile(source, partial_db)
    partial_db.chmod(0o600)
    try:
        check_database(partial_db)
        result = BackupResult(0, 0)
        if backup.is_dir():
            store = ArtifactStore(home.artifacts)
            result = _copy_artifacts(
                _list_referenced(partial_db), ArtifactStore(backup / "artifacts"), store, report
            )
            store.close()
            for part in ("hparams", "models"):
                _copy_tree(backup / part, home.root / part)
            _move_weights(partial_db, _home_of(backup), home)
        sync_path(partial_db)
        partial_db.replace(home.catalog)
        sync_path(home.root)
    finally:
        partial_db.unlink(missing_ok=True)
    return result


def check_database(path: Path) -> None:
    """Raise CatalogError unless this is an intact catalog of this or an older version."""
    with plain_errors(path):
        version = read_version(path)
        if version is None:
            raise CatalogError(f"{path} is not a catalog.")
        if version > HEAD:
            raise CatalogTooNew(
                f"{path} has version {version}; this is retcon {__version__}, which supports versions up to {HEAD}: "
                "install the newer retcon."
            )
        with closing(connect(path)) as connection:
            problems = find_problems(connection)
    if problems:
        raise CatalogError(f"{path} is corrupt ({problems[0]}): use another backup.")


def _check_target(folder: Path, home: Home) -> None:
    if folder.resolve() == home.root.resolve() or home.root.resolve() in folder.resolve().parents:
        raise InputError(f"{folder} is inside the home folder: give one on another disk.")
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder} is a file: give a folder, or a name that ends in .db for the database alone."
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INFO_FILE).is_file():
        # An interrupted first backup has the copied database, but no info file yet.
        if (folder / ".catalog.db").exists():
            return
        raise InputError(f"{folder} is neither empty nor a backup of retcon: give a new folder.")


def _list_referenced(database: Path) -> list[str]:
    """The artifacts that the rows of a database reference, as `find_references` of an open catalog."""
    with closing(connect(database)) as connection:
        named = connection.execute(
            "SELECT delta FROM revision WHERE delta IS NOT NULL UNION SELECT artifact FROM covariance"
        ).fetchall()
        jobs = connection.execute("SELECT spec || checkpoint FROM job WHERE state != 'done'").fetchall()
    of_jobs = [digest for (text,) in jobs for digest in digests_in(text)]
    return sorted({*of_jobs, *(digest for (digest,) in named)})


def _copy_artifacts(
    digests: list[str], source: ArtifactStore, target: ArtifactStore, report: Report
) -> BackupResult:
    sizes = {digest: source.size(digest) for digest in digests}
    total, done, corrupt = sum(sizes.values()), 0, []
    for digest, size in sizes.items():
        report(done, total)
        # Hash existing copies too: a corrupt one is copied again.
        if target.verify(digest) is not None:
            try:
                target.put_file(source.path(digest))
            except ArtifactCorrupt:
                corrupt.append(digest)
            else:
                if problem := target.verify(digest):
                    raise CatalogError(f"{problem.path}, just written, {problem.problem}: check that disk.")
        done += size
        report(done, total)
    target.close()
    return BackupResult(len(digests) - len(corrupt), total, corrupt)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy new and changed files (by size and time). Compares each copy by its hash."""
    for path in sorted(source.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        copy = target / path.relative_to(source)
        if copy.is_file() and _size_and_time(copy) == _size_and_time(path):
            continue
        _make_private(copy.parent)
        partial = copy.with_name(f".{copy.name}.partial")
        shutil.copy2(path, partial)
        partial.chmod(0o600)
        sync_path(partial)
        if sha256_of(partial) != sha256_of(path):
            raise CatalogError(
                f"{path} changed during the copy, or {partial} was written incorrectly: repeat this."
            )
        partial.replace(copy)
        sync_path(copy.parent)


def _make_private(folder: Path) -> None:
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _weights(database: Path, home: Home) -> list[Path]:
    """The folders of models' weights that are inside the home."""
    with closing(connect(database)) as connection:
        paths = [Path(path) for (path,) in connection.execute("SELECT path FROM model")]
    return [path for path in paths if home.models in path.parents and path.is_dir()]


def _size_and_time(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def _home_of(backup: Path) -> str:
    try:
        return str(json.loads((backup / INFO_FILE).read_text(encoding="utf-8"))["home"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{backup / INFO_FILE} does not name the home of the backup ({error}).") from error


def _move_weights(database: Path, old: str, home: Home) -> None:
    """Update the paths of weights from the old home to the new one."""
    before = f"{old}/models/"
    with plain_errors(database), closing(connect(database)) as connection:
        connection.execute(
            "UPDATE model SET path = ? || substr(path, ?) WHERE substr(path, 1, ?) = ?",
            (f"{home.models}/", len(before) + 1, len(before), before),
        )


@contextmanager
def _output_errors(place: Path) -> Iterator[None]:
    """Convert errors of the system about an output path of the user into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{place} cannot be written ({error.strerror or error}): give another path."
        ) from error
