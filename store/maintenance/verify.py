"""Check a catalog: its SQLite file, the keys in it, and the bytes of every artifact."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlmodel import Session

from ..catalog.artifacts import ArtifactStore, CorruptArtifact
from ..catalog.catalog import Catalog
from .references import find_dependents, find_references


@dataclass(frozen=True)
class Damage:
    """One artifact that is hurt: who needs it, what stands on that, and what was done about it."""

    artifact: CorruptArtifact
    referenced_by: list[str]
    affects: list[str]
    # Where the hurt file was moved to; None if there was none to move.
    quarantined: Path | None = None
    is_repaired: bool = False

    @property
    def sentence(self) -> str:
        """All of it for a person."""
        done = f" It was moved to {self.quarantined}." if self.quarantined else ""
        whose = (
            f"It is needed by {', '.join(self.referenced_by)}." if self.referenced_by else "Nothing needs it."
        )
        mended = " A sound copy was put in its place." if self.is_repaired else ""
        return f"Artifact {self.artifact.sha256} at {self.artifact.path} {self.artifact.problem}. {whose}{done}{mended}"


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `database` are sentences about the SQLite file."""

    artifacts: int
    bytes: int
    database: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong any more that anything needs."""
        return not self.database and all(one.is_repaired or not one.referenced_by for one in self.damages)


def check(
    catalog: Catalog,
    report: Callable[[int, int], object] = lambda _done, _total: None,
    *,
    repair_from: ArtifactStore | None = None,
) -> CheckResult:
    """Look at everything, while jobs go on. CorruptArtifact files are moved to the home's quarantine.

    Reads every byte, about 1.3 s a GB of artifacts; `report` is told the bytes done and in all. What `repair_from` (a
    backup's) holds in a sound copy is put back.
    """
    with catalog.read() as session:
        database = _database(session, catalog.home.catalog)
        needed = find_references(session)
    sizes = {digest: catalog.artifacts.size(digest) for digest in {*needed, *catalog.artifacts.digests()}}
    done, total = 0, sum(sizes.values())
    damages = []
    for digest, size in sorted(sizes.items()):
        report(done, total)
        if (hurt := catalog.artifacts.verify(digest)) and (damage := _handled(catalog, hurt, repair_from)):
            damages.append(damage)
        done += size
        report(done, total)
    return CheckResult(len(sizes), total, database, damages)


def _database(session: Session, path: Path) -> list[str]:
    connection = session.connection()
    found = [
        f"The catalog {path} is damaged ({line}): restore a backup."
        for (line,) in connection.exec_driver_sql("PRAGMA integrity_check").all()
        if line != "ok"
    ]
    for table, row, target, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").all():
        found.append(f"Row {row} of {table} points at a row of {target} that is not there: restore a backup.")
    return found


def _handled(catalog: Catalog, hurt: CorruptArtifact, repair_from: ArtifactStore | None) -> Damage | None:
    """The damage, after the hurt file was moved away and, where there is a sound copy, mended."""
    moved = catalog.artifacts.quarantine(hurt, catalog.home.quarantine) if hurt.seen else None
    with catalog.read() as session:
        referenced_by = find_references(session).get(hurt.sha256, [])
    if moved is None and (catalog.artifacts.verify(hurt.sha256) is None or not (referenced_by or hurt.seen)):
        return None  # a job has stored it again meanwhile, or has removed what it needed no more
    mended = repair_from is not None and repair_from.verify(hurt.sha256) is None
    if mended and repair_from is not None:
        catalog.artifacts.put_file(repair_from.locate(hurt.sha256))
    with catalog.read() as session:
        return Damage(
            hurt,
            find_references(session).get(hurt.sha256, []),
            find_dependents(session, hurt.sha256),
            moved,
            mended,
        )
