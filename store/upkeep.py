"""Look after a catalog: check it, back it up, free what nothing needs any more."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session, col, select

from .catalog import Catalog
from .connection import copy_database, plain_errors
from .errors import ArtifactDamaged, InputError
from .tables import Artifact, Covariance, Job, Revision

# How long a file that no row names is kept: far longer than from storing a file to committing its row.
GRACE_SECONDS = 86400.0
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Freed:
    """What a collection removed."""

    artifacts: int
    partial_files: int
    bytes: int


def check(catalog: Catalog) -> list[str]:
    """Everything that is wrong, a sentence each: the SQLite file, its keys, every artifact that is needed.

    Reads every byte, about 1.3 s a GB of artifacts.
    """
    found: list[str] = []
    with catalog.read() as session:
        connection = session.connection()
        for (line,) in connection.exec_driver_sql("PRAGMA integrity_check").all():
            if line != "ok":
                found.append(f"The catalog {catalog.home.catalog} is damaged ({line}): restore a backup.")
        for table, row, target, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").all():
            found.append(
                f"Row {row} of {table} points at a row of {target} that is not there: restore a backup."
            )
        users = _users(session)
    for digest, needed_by in users.items():
        try:
            catalog.artifacts.path(digest)
        except ArtifactDamaged as error:
            found.append(f"{error} It is needed by {', '.join(needed_by)}.")
    return found


def backup(catalog: Catalog, target: Path) -> None:
    """A copy of the catalog's file (not of the artifacts) while jobs go on. InputError if `target` exists."""
    if target.exists():
        raise InputError(f"{target} exists already: give a file that does not.")
    try:
        with plain_errors(catalog.home.catalog):
            copy_database(catalog.home.catalog, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}): give another file.") from error


def collect(catalog: Catalog, *, grace: float = GRACE_SECONDS) -> Freed:
    """Remove the artifacts that nothing names, and what killed writers left, older than `grace` seconds.

    Safe beside running jobs: a file is stored before the row that names it is committed, and storing one that
    is there already makes it young again.
    """
    with catalog.write() as session:
        live = set(_users(session))
        on_disk = set(catalog.artifacts.digests())
    freed, count = 0, 0
    for digest in sorted(on_disk - live):
        size = catalog.artifacts.remove(digest, grace)
        freed += size
        count += bool(size)
    with catalog.write() as session:
        live = set(_users(session))
        there = set(catalog.artifacts.digests())
        for row in session.exec(select(Artifact)):
            if row.sha256 not in live and row.sha256 not in there:
                session.delete(row)
    return Freed(artifacts=count, partial_files=catalog.artifacts.sweep(grace), bytes=freed)


def _users(session: Session) -> dict[str, list[str]]:
    """The digests that rows name, with the rows in words."""
    users: dict[str, list[str]] = {}
    for revision, delta in session.exec(
        select(Revision.id, Revision.delta).where(col(Revision.delta).is_not(None))
    ):
        if delta is not None:
            users.setdefault(delta, []).append(f"revision {revision}")
    for covariance, artifact in session.exec(select(Covariance.id, Covariance.artifact)):
        users.setdefault(artifact, []).append(f"covariance {covariance}")
    # A checkpoint, or what was asked, may name files that the job goes on with; its shape is the job's own business.
    query = select(Job.id, Job.spec, Job.checkpoint).where(Job.state != "done")
    for job, spec, checkpoint in session.exec(query):
        for digest in _DIGEST.findall(json.dumps([spec, checkpoint])):
            users.setdefault(digest, []).append(f"job {job}")
    return users
