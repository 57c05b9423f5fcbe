"""Check a catalog: its SQLite file, the keys in it, and the bytes of every artifact."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..catalog.artifacts import ArtifactStore, CorruptArtifact
from ..catalog.catalog import Catalog
from ..catalog.connection import find_problems
from .references import find_dependents, find_references


@dataclass(frozen=True)
class Damage:
    """A corrupt artifact, the rows that reference it, the rows that depend on those, and the repair."""

    artifact: CorruptArtifact
    referenced_by: list[str]
    affects: list[str]
    # The new path of the corrupt file; None if there was no file.
    quarantined: Path | None = None
    is_repaired: bool = False

    @property
    def sentence(self) -> str:
        """The damage in words."""
        rows = ", ".join(self.referenced_by)
        references = f"Referenced by {rows}." if rows else "Not referenced."
        moved = f" It was moved to {self.quarantined}." if self.quarantined else ""
        repaired = " It was replaced by an intact copy." if self.is_repaired else ""
        corrupt = self.artifact
        return f"Artifact {corrupt.sha256} at {corrupt.path} {corrupt.problem}. {references}{moved}{repaired}"


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. `database` holds sentences about the SQLite file."""

    artifacts: int
    bytes: int
    database: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether the database and all referenced artifacts are intact."""
        return not self.database and all(one.is_repaired or not one.referenced_by for one in self.damages)


def check(
    catalog: Catalog,
    report: Callable[[int, int], object] = lambda _done, _total: None,
    *,
    repair_from: ArtifactStore | None = None,
) -> CheckResult:
    """Check the database and all artifacts, while jobs may run. Moves corrupt files to the home's quarantine.

    Reads every byte, about 1.3 s per GB, and calls `report(bytes done, all bytes)`. Replaces corrupt artifacts by
    intact copies from `repair_from`, the store of a backup.
    """
    with catalog.read_connection() as connection:
        problems = find_problems(connection)
    database = [
        f"The catalog {catalog.home.catalog} is corrupt ({one}): restore a backup." for one in problems
    ]
    with catalog.read() as session:
        references = find_references(session)
    sizes = {digest: catalog.artifacts.size(digest) for digest in {*references, *catalog.artifacts.digests()}}
    done, total = 0, sum(sizes.values())
    damages = []
    for digest, size in sorted(sizes.items()):
        report(done, total)
        corrupt = catalog.artifacts.verify(digest)
        if corrupt and (damage := _repair(catalog, corrupt, repair_from)):
            damages.append(damage)
        done += size
        report(done, total)
    return CheckResult(len(sizes), total, database, damages)


def _repair(catalog: Catalog, corrupt: CorruptArtifact, repair_from: ArtifactStore | None) -> Damage | None:
    """Move the corrupt file away and replace it by an intact copy, if there is one. None if it is intact now."""
    moved = catalog.artifacts.quarantine(corrupt, catalog.home.quarantine) if corrupt.file_id else None
    with catalog.read() as session:
        referenced_by = find_references(session).get(corrupt.sha256, [])
    if moved is None and (
        catalog.artifacts.verify(corrupt.sha256) is None or not (referenced_by or corrupt.file_id)
    ):
        return None  # meanwhile a job has stored it again, or removed it
    is_repaired = repair_from is not None and repair_from.verify(corrupt.sha256) is None
    if is_repaired and repair_from is not None:
        catalog.artifacts.put_file(repair_from.locate(corrupt.sha256))
    with catalog.read() as session:
        return Damage(
            corrupt,
            find_references(session).get(corrupt.sha256, []),
            find_dependents(session, corrupt.sha256),
            moved,
            is_repaired,
        )
