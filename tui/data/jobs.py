"""Jobs as the screens show them: the list, one in detail, how many are alive, the end of a log."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, or_, select

from ...store.catalog import Catalog
from ...store.tables import Job
from .rows import Hurt, columns, read_row, read_rows

_J = columns(Job)

ALIVE = ("queued", "waiting", "running")
# What of a spec the list tells; an edit's spec may hold thousands of requests, so only these are read.
_TOLD = ("model", "name", "source", "prompt", "facts", "subject", "reverts", "revision", "layers", "folder",
         "requests[0].subject", "requests[0].target_new")  # fmt: skip
_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class JobRow:
    """One line of the list."""

    id: int
    kind: str
    state: str
    stop_asked: str | None
    done: float
    total: float | None
    unit: str
    rate: float | None
    seconds_left: float | None
    activity: str
    error: str | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    told: dict[str, Any]

    @property
    def alive(self) -> bool:
        """Whether it may still change by itself."""
        return self.state in ALIVE

    @property
    def about(self) -> str:
        """What it works on, in some words."""
        told = self.told
        parts = [told["model"] or told["name"]]
        if self.kind == "model":
            parts.append(told["source"] if told["source"] != told["name"] else None)
        elif told["requests[0].subject"] and self.kind != "sweep":
            parts.append(f"{told['requests[0].subject']} → {str(told['requests[0].target_new']).strip()}")
        elif self.kind == "covariance":
            layers = told["layers"] or []
            parts.append(f"layer{'s' * (len(layers) != 1)} {', '.join(map(str, layers))}")
        else:
            parts.append(
                told["facts"] or told["prompt"] or told["reverts"] or told["folder"] or told["revision"]
            )
        return " · ".join(str(part) for part in parts if part)


@dataclass(frozen=True)
class JobDetail:
    """All that is known of one job."""

    row: JobRow
    spec: dict[str, Any]
    device: str
    pid: int | None
    attempt: int
    heartbeat: datetime | None
    made: dict[str, Any]


@dataclass(frozen=True)
class Alive:
    """The jobs that have not ended, as (id, state), and the highest id there is."""

    jobs: tuple[tuple[int, str], ...]
    newest: int

    def count(self, *states: str) -> int:
        """How many of them are in one of these states."""
        return sum(state in states for _, state in self.jobs)


def list_jobs(catalog: Catalog) -> list[JobRow | Hurt]:
    """The jobs, newest first."""
    with catalog.read() as session:
        return read_rows(session, select(*_LISTED), _J.id, _row)


def job_detail(catalog: Catalog, id: int) -> JobDetail | Hurt | None:
    """One job."""
    query = select(*_LISTED, _J.spec, _J.device, _J.pid, _J.attempt, _J.heartbeat, _J.made)
    with catalog.read() as session:
        return read_row(session, query, _J.id, id, _detail)


def alive_jobs(catalog: Catalog) -> Alive:
    """Which jobs have not ended."""
    query = select(_J.id, _J.state).where(_J.state.in_(ALIVE)).order_by(_J.id)
    with catalog.read() as session:
        connection = session.connection()
        jobs = tuple((id, state) for id, state in connection.execute(query))
        newest = connection.execute(select(func.max(_J.id))).scalar() or 0
    return Alive(jobs, newest)


def ended_jobs(catalog: Catalog, ids: Collection[int], after: int) -> list[JobRow | Hurt]:
    """Of the jobs `ids` and those newer than `after`, the ones that have ended."""
    query = select(*_LISTED).where(or_(_J.id.in_(list(ids)), _J.id > after), _J.state.not_in(ALIVE))
    with catalog.read() as session:
        return read_rows(session, query, _J.id, _row)


def tail(path: Path) -> list[str]:
    """The last lines of a log; of a line that a progress bar wrote over, what was seen last."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            begin = max(0, file.tell() - _TAIL_BYTES)
            file.seek(begin)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.split("\n")[1 if begin else 0 :]
    return [line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines if line.strip()]


_LISTED = (
    _J.id, _J.kind, _J.state, _J.stop_asked, _J.done, _J.total, _J.unit, _J.rate, _J.seconds_left, _J.activity,
    _J.error, _J.created, _J.started, _J.ended, func.json_extract(_J.spec, *(f"$.{path}" for path in _TOLD)),
)  # fmt: skip


def _row(*values: Any) -> JobRow:
    told = dict(zip(_TOLD, json.loads(values[-1]), strict=True))
    return JobRow(*(*values[:-1], told))


def _detail(*values: Any) -> JobDetail:
    row = _row(*values[: len(_LISTED)])
    spec, device, pid, attempt, heartbeat, made = values[len(_LISTED) :]
    return JobDetail(row, dict(spec), device, pid, attempt, heartbeat, dict(made))
