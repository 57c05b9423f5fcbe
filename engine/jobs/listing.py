"""What the command line needs of jobs before it knows that it shall change one: the newest, and whether they live.

In plain SQL, for SQLModel takes longer to load than all of a listing.
"""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from ...store.catalog.catalog import Catalog
from ...store.errors import CatalogError
from ...store.states import ALIVE_STATES
from .locks import is_held, job_lock

# How long a process that was asked to stop has to reach a checkpoint, and then to go on SIGTERM.
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class ListedJob:
    """A job's row as it was read; the fields are those of the table."""

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
_MOMENTS = ("created", "started", "ended")


def newest_jobs(catalog: Catalog, limit: int | None = None) -> list[ListedJob]:
    """The newest jobs, newest first; all without a limit.

    Raises:
        CatalogError: a row holds what cannot be read.
    """
    wanted = f"SELECT {', '.join(_COLUMNS)} FROM job ORDER BY id DESC LIMIT ?"
    with catalog.look() as connection:
        found = connection.execute(wanted, [-1 if limit is None else limit]).fetchall()
    return [_listed(dict(zip(_COLUMNS, row, strict=True))) for row in found]


def _listed(values: dict[str, Any]) -> ListedJob:
    try:
        values |= {name: json.loads(values[name]) for name in _JSON}
        values |= {name: _moment(values[name]) for name in _MOMENTS}
    except (TypeError, ValueError) as error:
        raise CatalogError(
            f"The row of job {values['id']} cannot be read ({error}). `retcon catalog check` tells what is damaged."
        ) from None
    return ListedJob(**values)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def reap(catalog: Catalog) -> list[int]:
    """Mark the jobs whose process is gone as what they are now; returns their ids."""
    # By the index of the states: for an order by `id` itself SQLite would rather look at every job there is.
    alive = (
        f"SELECT id, owner FROM job WHERE state IN ({', '.join(map(repr, ALIVE_STATES))}) ORDER BY +id DESC"
    )
    with catalog.look() as connection:
        candidates: list[tuple[int, str | None]] = connection.execute(alive).fetchall()
    return [
        id
        for id, owner in candidates
        if not is_held(job_lock(catalog.home, id)) and _bury(catalog, id, owner)
    ]


def _bury(catalog: Catalog, id: int, owner: str | None) -> bool:
    from ...store import jobs as rows
    from .notice import give_notice

    with catalog.write() as session:
        buried = rows.bury(session, id, owner)
        now = rows.get(session, id)
    if buried:
        give_notice(catalog.home, now)
    return buried
