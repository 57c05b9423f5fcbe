"""The content and the integrity of a catalog, by plain SQL that only reads: for bug reports."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..catalog.connection import APPLICATION_ID, connect

# Before these versions, two simultaneous checkpoints may corrupt a WAL. The second and third are backports (https://sqlite.org/wal.html#walresetbug).
_FIXED_FROM = (3, 51, 3)
_FIXED_IN = {(3, 50): 7, (3, 44): 6}
_MAX_PROBLEMS = 5


@dataclass(frozen=True)
class Health:
    """Rows by table, jobs by state, and the problems that SQLite reports."""

    version: str | None
    size: int
    rows: dict[str, int]
    jobs: dict[str, int]
    problems: list[str]


def read_health(path: Path) -> Health:
    """Check an existing catalog without migrating it. Raises sqlite3.Error if it cannot be read."""
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA query_only = ON")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
            )
        ]
        problems = [line for (line,) in connection.execute(f"PRAGMA quick_check({_MAX_PROBLEMS})")]
        if application != APPLICATION_ID and tables:
            problems.append("this is an SQLite file of another program")
        rows = {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for name in tables
            if name not in ("alembic_version", "app_version")
        }
        jobs = {}
        if "job" in tables:
            jobs = dict(connection.execute("SELECT state, count(*) FROM job GROUP BY state ORDER BY state"))
        version = None
        if "alembic_version" in tables:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            version = found[0] if found else None
    return Health(version, path.stat().st_size, rows, jobs, [line for line in problems if line != "ok"])


def wal_is_safe(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether an SQLite has the fix of the WAL-reset bug."""
    return version >= _FIXED_FROM or version[2] >= _FIXED_IN.get(version[:2], version[2] + 1)
