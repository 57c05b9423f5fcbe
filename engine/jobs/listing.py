"""Read the newest jobs, and write a job as JSON.

Uses plain SQL, because importing SQLModel takes longer than a listing.
"""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...store.catalog.catalog import Catalog
from ...store.errors import CatalogError

if TYPE_CHECKING:
    from ...store.catalog.tables import Job


@dataclass(frozen=True)
class ListedJob:
    """A row of the job table as a plain object. The fields are columns of the table."""

    id: int
    kind: str
    state: str
    stop_request: str | None
    priority: int
    pid: int | None
    device: str
    memory: int | None
    done: float
    total: float | None
    unit: str
    rate: float | None
    seconds_left: float | None
    activity: str
    detail: str
    nodes: dict[str, Any]
    error: str | None
    error_kind: str | None
    spec: dict[str, Any]
    attempt: int
    created: datetime
    started: datetime | None
    ended: datetime | None
    checkpoint: dict[str, Any]
    result: dict[str, Any]


_COLUMNS = tuple(field.name for field in fields(ListedJob))
_JSON = ("nodes", "spec", "checkpoint", "result")
_TIMES = ("created", "started", "ended")


def list_newest_jobs(catalog: Catalog, limit: int | None = None) -> list[ListedJob]:
    """The newest jobs, newest first; all jobs without a limit.

    Raises:
        CatalogError: a row cannot be decoded.
    """
    query = f"SELECT {', '.join(_COLUMNS)} FROM job ORDER BY id DESC LIMIT ?"
    with catalog.read_connection() as connection:
        rows = connection.execute(query, [-1 if limit is None else limit]).fetchall()
    return [_decode(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def _decode(values: dict[str, Any]) -> ListedJob:
    try:
        values |= {name: json.loads(values[name]) for name in _JSON}
        for name in _TIMES:
            if values[name] is not None:
                values[name] = datetime.fromisoformat(values[name]).replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise CatalogError(
            f"The row of job {values['id']} cannot be read ({error}). `retcon catalog check` lists damaged rows."
        ) from None
    return ListedJob(**values)


def build_job_record(job: "Job | ListedJob") -> dict[str, Any]:
    """A job as JSON for scripts and for `on_finish`: its fields, then the ids of its results.

    Field names are part of the interface.
    """
    names = (name for name in _COLUMNS if name not in ("checkpoint", "result"))
    # A running job has created its trace or sweep already; other results exist only at the end.
    started = {name: job.checkpoint[name] for name in ("trace", "sweep") if name in job.checkpoint}
    return {name: getattr(job, name) for name in names} | started | job.result
