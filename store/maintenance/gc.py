"""Garbage collection: delete unreferenced files. Keeps files that a live process may still reference."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import col, select

from ..atomic_files import unlink_older
from ..catalog.catalog import Catalog
from ..catalog.tables import Artifact, Job, Model
from ..errors import CatalogError
from ..states import ENDED_STATES
from .references import find_references

# How long unreferenced files are kept. Storing a file and committing its row takes far less.
GRACE_SECONDS = 86400.0
_JOB_FILE = re.compile(r"job-(\d+)\.(log|kept\.jsonl|training\.safetensors)")


@dataclass(frozen=True)
class Unreferenced:
    """An unreferenced file or folder. `kind` is artifact, temporary, log, checkpoint, export, weights or corrupt."""

    kind: str
    path: Path
    bytes: int
    reason: str


def collect(catalog: Catalog, *, grace: float = GRACE_SECONDS, delete: bool = False) -> list[Unreferenced]:
    """Unreferenced files that are older than `grace` seconds. With `delete`, deletes them and returns the deleted ones.

    Safe while jobs run, for any grace: see `catalog.leases`. Mark jobs of dead processes as interrupted before. Raises
    CatalogError if another process reads all artifacts (a backup).
    """
    now = time.time()
    # Before rows are read: a process without a lease has committed its rows, or stores files later than this.
    cutoff = catalog.artifacts.leases.cutoff(now, grace)
    if cutoff is None:
        raise CatalogError("A backup or an export is reading the artifacts: repeat this when it is done.")
    found = [*_artifacts(catalog, cutoff), *_temporary(catalog, cutoff), *_of_jobs(catalog, now - grace)]
    found += [*_weights(catalog, now - grace), *_quarantined(catalog, now - grace)]
    if not delete:
        return found
    deleted = [one for one in found if _remove(catalog, one, cutoff)]
    _delete_rows(catalog)
    return deleted


def _artifacts(catalog: Catalog, cutoff: float) -> Iterator[Unreferenced]:
    digests = sorted(catalog.artifacts.digests())
    with catalog.read() as session:
        live = set(find_references(session))
    for digest in digests:
        path = catalog.artifacts.locate(digest)
        if digest not in live and (size := _older(path, cutoff)) is not None:
            yield Unreferenced("artifact", path, size, "no row references it")


def _temporary(catalog: Catalog, cutoff: float) -> Iterator[Unreferenced]:
    """Temporary files of killed writers."""
    for path in (*catalog.artifacts.partial_files(), *catalog.home.backups.glob("*.partial")):
        if (size := _older(path, cutoff)) is not None:
            yield Unreferenced("temporary", path, size, "the process that wrote this file has ended")


def _of_jobs(catalog: Catalog, before: float) -> Iterator[Unreferenced]:
    """Files of done or removed jobs, and folders of killed exports."""
    files = sorted(catalog.home.logs.iterdir())  # before the rows: a job's row is older than its files
    with catalog.read() as session:
        jobs = {job.id: job for job in session.exec(select(Job))}
    for path in files:
        match = _JOB_FILE.fullmatch(path.name)
        if match is None or (size := _older(path, before)) is None:
            continue
        job, is_checkpoint = jobs.get(int(match[1])), match[2] != "log"
        if job is None:
            yield Unreferenced(
                "checkpoint" if is_checkpoint else "log", path, size, f"job {match[1]} was removed"
            )
        elif is_checkpoint and job.state == "done":
            yield Unreferenced("checkpoint", path, size, f"job {job.id} is done")
    exports = [job for job in jobs.values() if job.kind == "export"]
    busy = {job.spec.get("folder") for job in exports if job.state not in ENDED_STATES}
    for folder in sorted({str(job.spec.get("folder")) for job in exports} - busy):
        yield from _export_folders(Path(folder), before)


def _export_folders(folder: Path, before: float) -> Iterator[Unreferenced]:
    """Temporary folders beside the folder of an export, with the names of tempfile.mkdtemp."""
    aside = re.compile(re.escape(f".{folder.name}-") + r"[a-z0-9_]{8}")
    for path in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        if (
            aside.fullmatch(path.name)
            and path.is_dir()
            and not path.is_symlink()
            and _older(path, before) is not None
        ):
            yield Unreferenced("export", path, _size(path), f"left by an export to {folder}")


def _weights(catalog: Catalog, before: float) -> Iterator[Unreferenced]:
    """Converted weights that belong to no model of the catalog."""
    folders = sorted(catalog.home.models.iterdir())
    with catalog.read() as session:
        needed = {Path(path) for path in session.exec(select(Model.path))}
        adding = session.exec(select(Job.spec).where(Job.kind == "model", col(Job.state) != "done")).all()
    needed |= {catalog.home.models / str(spec.get("name")) for spec in adding}
    for path in folders:
        inside = any(one == path or path in one.parents for one in needed)
        if not inside and path.is_dir() and not path.is_symlink() and _older(path, before) is not None:
            yield Unreferenced("weights", path, _size(path), "they belong to no model of the catalog")


def _quarantined(catalog: Catalog, before: float) -> Iterator[Unreferenced]:
    """Quarantined files of repaired or unreferenced artifacts."""
    with catalog.read() as session:
        live = set(find_references(session))
    for path in sorted(catalog.home.quarantine.glob("*")):
        digest = path.name.partition(".")[0]
        size = _older(path, before)
        if size is not None and (digest not in live or catalog.artifacts.locate(digest).exists()):
            yield Unreferenced(
                "corrupt", path, size, "there is an intact copy" if digest in live else "no row references it"
            )


def _remove(catalog: Catalog, found: Unreferenced, cutoff: float) -> bool:
    if found.kind == "artifact":
        return bool(catalog.artifacts.remove(found.path.name, cutoff)) or not found.path.exists()
    if found.kind == "weights" and found.path not in {one.path for one in _weights(catalog, float("inf"))}:
        return False  # a job that adds a model of that name has started
    if found.path.is_dir():
        shutil.rmtree(found.path, ignore_errors=True)
    else:
        unlink_older(found.path, cutoff if found.kind == "temporary" else float("inf"))
    return not found.path.exists()


def _delete_rows(catalog: Catalog) -> None:
    """Delete the rows of missing, unreferenced artifacts."""
    with catalog.write() as session:
        live = set(find_references(session))
        existing = set(catalog.artifacts.digests())
        for row in session.exec(select(Artifact)):
            if row.sha256 not in live and row.sha256 not in existing:
                session.delete(row)


def _older(path: Path, before: float) -> int | None:
    """The size of a file that was last written before a time; None if it is younger or missing."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_size if found.st_mtime < before else None


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
