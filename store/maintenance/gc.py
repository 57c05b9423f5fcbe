"""Free what nothing needs any more. Nothing that a row names, or that a living process may still name, is touched."""

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

# How long what nothing names is kept: far longer than from storing a file to committing its row.
GRACE_SECONDS = 86400.0
_JOB_FILE = re.compile(r"job-(\d+)\.(log|kept\.jsonl|training\.safetensors)")


@dataclass(frozen=True)
class Unreferenced:
    """One file or folder that nothing needs. `kind` is artifact, temporary, log, kept, export, weights or hurt."""

    kind: str
    path: Path
    bytes: int
    why: str


def collect(catalog: Catalog, *, grace: float = GRACE_SECONDS, delete: bool = False) -> list[Unreferenced]:
    """What nothing needs, untouched for `grace` seconds; with `delete` what of it was removed.

    Safe beside running jobs, whatever the grace: see `store.leases`. The jobs whose process is gone must have been
    marked as interrupted before.

    Raises:
        CatalogError: somebody reads all artifacts now (a backup).
    """
    now = time.time()
    # Before any row is read: whoever holds no lease now has committed its rows, or stores later than this.
    cutoff = catalog.artifacts.leases.cutoff(now, grace)
    if cutoff is None:
        raise CatalogError("A backup or an export reads the artifacts now: repeat this when it is done.")
    found = [*_artifacts(catalog, cutoff), *_temporary(catalog, cutoff), *_of_jobs(catalog, now - grace)]
    found += [*_weights(catalog, now - grace), *_hurt(catalog, now - grace)]
    if not delete:
        return found
    removed = [one for one in found if _remove(catalog, one, cutoff)]
    _forget(catalog)
    return removed


def _artifacts(catalog: Catalog, cutoff: float) -> Iterator[Unreferenced]:
    digests = sorted(catalog.artifacts.digests())
    with catalog.read() as session:
        live = set(find_references(session))
    for digest in digests:
        path = catalog.artifacts.locate(digest)
        if digest not in live and (size := _older(path, cutoff)) is not None:
            yield Unreferenced("artifact", path, size, "no row names it")


def _temporary(catalog: Catalog, cutoff: float) -> Iterator[Unreferenced]:
    """What killed writers left."""
    for path in (*catalog.artifacts.partial_files(), *catalog.home.backups.glob("*.partial")):
        if (size := _older(path, cutoff)) is not None:
            yield Unreferenced("temporary", path, size, "its writer is gone")


def _of_jobs(catalog: Catalog, before: float) -> Iterator[Unreferenced]:
    """Files beside the rows of jobs that are done or were removed, and folders that killed exports left."""
    files = sorted(catalog.home.logs.iterdir())  # before the rows: a job's row is there before its files
    with catalog.read() as session:
        jobs = {job.id: job for job in session.exec(select(Job))}
    for path in files:
        match = _JOB_FILE.fullmatch(path.name)
        if match is None or (size := _older(path, before)) is None:
            continue
        job, kept = jobs.get(int(match[1])), match[2] != "log"
        if job is None:
            yield Unreferenced("checkpoint" if kept else "log", path, size, f"job {match[1]} was removed")
        elif kept and job.state == "done":
            yield Unreferenced("checkpoint", path, size, f"job {job.id} is done")
    exports = [job for job in jobs.values() if job.kind == "export"]
    busy = {job.spec.get("folder") for job in exports if job.state not in ENDED_STATES}
    for folder in sorted({str(job.spec.get("folder")) for job in exports} - busy):
        yield from _left_by_export(Path(folder), before)


def _left_by_export(folder: Path, before: float) -> Iterator[Unreferenced]:
    """An export writes beside its folder, in one that tempfile.mkdtemp names."""
    aside = re.compile(re.escape(f".{folder.name}-") + r"[a-z0-9_]{8}")
    for path in sorted(folder.parent.iterdir()) if folder.parent.is_dir() else ():
        if (
            aside.fullmatch(path.name)
            and path.is_dir()
            and not path.is_symlink()
            and _older(path, before) is not None
        ):
            yield Unreferenced("export", path, _size(path), f"an export to {folder} left it")


def _weights(catalog: Catalog, before: float) -> Iterator[Unreferenced]:
    """Converted weights of models that were never added, or were removed."""
    folders = sorted(catalog.home.models.iterdir())
    with catalog.read() as session:
        needed = {Path(path) for path in session.exec(select(Model.path))}
        adding = session.exec(select(Job.spec).where(Job.kind == "model", col(Job.state) != "done")).all()
    needed |= {catalog.home.models / str(spec.get("name")) for spec in adding}
    for path in folders:
        inside = any(one == path or path in one.parents for one in needed)
        if not inside and path.is_dir() and not path.is_symlink() and _older(path, before) is not None:
            yield Unreferenced("weights", path, _size(path), "no model of the catalog has them")


def _hurt(catalog: Catalog, before: float) -> Iterator[Unreferenced]:
    """Quarantined files of artifacts that are sound again, or that nothing needs."""
    with catalog.read() as session:
        live = set(find_references(session))
    for path in sorted(catalog.home.quarantine.glob("*")):
        digest = path.name.partition(".")[0]
        size = _older(path, before)
        if size is not None and (digest not in live or catalog.artifacts.locate(digest).exists()):
            yield Unreferenced(
                "corrupt", path, size, "there is a sound copy" if digest in live else "nothing needs it"
            )


def _remove(catalog: Catalog, loose: Unreferenced, cutoff: float) -> bool:
    if loose.kind == "artifact":
        return bool(catalog.artifacts.remove(loose.path.name, cutoff)) or not loose.path.exists()
    if loose.kind == "weights" and loose.path not in {one.path for one in _weights(catalog, float("inf"))}:
        return False  # a job that adds a model of that name has begun
    if loose.path.is_dir():
        shutil.rmtree(loose.path, ignore_errors=True)
    else:
        unlink_older(loose.path, cutoff if loose.kind == "temporary" else float("inf"))
    return not loose.path.exists()


def _forget(catalog: Catalog) -> None:
    """Delete the rows of artifacts that are gone and that nothing names."""
    with catalog.write() as session:
        live = set(find_references(session))
        there = set(catalog.artifacts.digests())
        for row in session.exec(select(Artifact)):
            if row.sha256 not in live and row.sha256 not in there:
                session.delete(row)


def _older(path: Path, before: float) -> int | None:
    """The size of what was last written before a time; None if it is younger or gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_size if found.st_mtime < before else None


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
