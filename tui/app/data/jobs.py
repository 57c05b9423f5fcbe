"""Jobs as the screens show them: the list, one in detail, how many are alive, the end of a log."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ....store.catalog.catalog import Catalog
from ....store.states import ALIVE_STATES
from .filters import Field
from .rows import Key, Listing, UnreadableRow, load_rows, parse_optional_time, parse_time

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
    stop_request: str | None
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
    # What it works on, in some words.
    about: str

    @property
    def is_active(self) -> bool:
        """Whether it may still change by itself."""
        return self.state in ALIVE_STATES


@dataclass(frozen=True)
class JobDetail:
    """All that is known of one job."""

    row: JobRow
    spec: dict[str, Any]
    device: str
    pid: int | None
    attempt: int
    heartbeat: datetime | None
    memory: int | None
    result: dict[str, Any]


@dataclass(frozen=True)
class ActiveJobs:
    """The jobs that have not ended, as (id, state), the highest id there is, how many were interrupted."""

    jobs: tuple[tuple[int, str], ...]
    newest: int
    interrupted: int

    def count(self, *states: str) -> int:
        """How many of them are in one of these states."""
        return sum(state in states for _, state in self.jobs)


def load_active_jobs(catalog: Catalog) -> ActiveJobs:
    """Which jobs have not ended."""
    # By the index of the states: for an order by `id` itself SQLite would rather look at every job there is.
    with catalog.read_connection() as connection:
        found = connection.execute(
            f"SELECT id, state FROM job WHERE state IN ({', '.join(map(repr, ALIVE_STATES))}) ORDER BY +id"
        ).fetchall()
        (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()
        (interrupted,) = connection.execute("SELECT count(*) FROM job WHERE state = 'interrupted'").fetchone()
    return ActiveJobs(tuple(found), newest, interrupted)


def load_ended_jobs(catalog: Catalog, ids: Collection[int], after: int) -> list[JobRow | UnreadableRow]:
    """Of the jobs `ids` and those newer than `after`, the ones that have ended."""
    with catalog.read_connection() as connection:
        newer = [id for (id,) in connection.execute("SELECT id FROM job WHERE id > ?", [after])]
    wanted: list[Key] = [*ids, *newer]
    found = load_rows(catalog, JOBS, wanted).values() if wanted else ()
    return [row for row in found if isinstance(row, UnreadableRow) or not row.is_active]


def load_interrupted_jobs(catalog: Catalog, most: int) -> list[JobRow]:
    """The newest jobs whose process died: what one may want to go on with."""
    sql = "SELECT id FROM job WHERE state = 'interrupted' ORDER BY id DESC LIMIT ?"
    with catalog.read_connection() as connection:
        found = [id for (id,) in connection.execute(sql, [most])]
    rows = load_rows(catalog, JOBS, found) if found else {}
    return [row for row in rows.values() if isinstance(row, JobRow)]


class LogTail:
    """The lines of a log that grows: the last of them, read on from where one was."""

    def __init__(self, path: Path, most_bytes: int = 4_000_000, most_lines: int = 20_000) -> None:
        self.path = path
        self.lines: list[str] = []
        self._most_bytes, self._most_lines = most_bytes, most_lines
        self._offset: int | None = None
        # A line that is not ended yet.
        self._open = ""

    def read(self) -> bool:
        """Read what came; whether anything did. A log that was begun anew is read anew."""
        try:
            size = self.path.stat().st_size
            if self._offset is None or size < self._offset:
                self.lines, self._open = [], ""
                self._offset = max(0, size - self._most_bytes)
            if size == self._offset:
                return False
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read(size - self._offset).decode(errors="replace")
        except OSError:
            return False
        cut_off = self._offset > 0 and not self.lines
        self._offset = size
        if self._open:
            self.lines.pop()
        *whole, self._open = (self._open + text).split("\n")
        if cut_off:
            whole = whole[1:]
        self.lines += [seen(line) for line in (*whole, self._open) if line.strip()]
        del self.lines[: -self._most_lines]
        if not self._open.strip():
            self._open = ""
        return True


def read_log_tail(path: Path) -> list[str]:
    """The last lines of a log; of a line that a progress bar wrote over, what was seen last."""
    log = LogTail(path, _TAIL_BYTES)
    log.read()
    return log.lines


def seen(line: str) -> str:
    """Of a line that a progress bar wrote over, what was seen last."""
    return line.rstrip("\r").rsplit("\r", 1)[-1]


def _row(*values: Any) -> JobRow:
    (
        id,
        kind,
        state,
        stop_request,
        done,
        total,
        unit,
        rate,
        left,
        activity,
        error,
        created,
        started,
        ended,
        found,
    ) = values
    about = _about(kind, dict(zip(_TOLD, json.loads(found), strict=True)))
    return JobRow(
        id, kind, state, stop_request, done, total, unit, rate, left, activity, error, parse_time(created),
        parse_optional_time(started), parse_optional_time(ended), about,
    )  # fmt: skip


def _about(kind: str, spec: dict[str, Any]) -> str:
    """What a job of some kind works on, of what its spec tells."""
    parts = [spec["model"] or spec["name"]]
    if kind == "model":
        parts.append(spec["source"] if spec["source"] != spec["name"] else None)
    elif spec["requests[0].subject"] and kind != "sweep":
        parts.append(f"{spec['requests[0].subject']} → {str(spec['requests[0].target_new']).strip()}")
    elif kind == "covariance":
        layers = spec["layers"] or []
        parts.append(f"layer{'s' * (len(layers) != 1)} {', '.join(map(str, layers))}")
    else:
        parts.append(spec["facts"] or spec["prompt"] or spec["reverts"] or spec["folder"] or spec["revision"])
    return " · ".join(str(part) for part in parts if part)


def _detail(*values: Any) -> JobDetail:
    row = _row(*values[: len(_LISTED)])
    spec, device, pid, attempt, heartbeat, memory, result = values[len(_LISTED) :]
    return JobDetail(
        row,
        dict(json.loads(spec)),
        device,
        pid,
        attempt,
        parse_optional_time(heartbeat),
        memory,
        dict(json.loads(result)),
    )


_PATHS = ", ".join(f"'$.{path}'" for path in _TOLD)
_LISTED = (
    "job.id", "job.kind", "job.state", "job.stop_request", "job.done", "job.total", "job.unit", "job.rate",
    "job.seconds_left", "job.activity", "job.error", "job.created", "job.started", "job.ended",
    f"json_extract(job.spec, {_PATHS})",
)  # fmt: skip
_FIELDS = {
    "state": Field("job.state"),
    "id": Field("job.id", "number"),
    "kind": Field("job.kind"),
    # As JSON: all that was asked for can be searched.
    "about": Field(f"CASE WHEN json_valid(job.spec) THEN json_extract(job.spec, {_PATHS}) END"),
    "device": Field("job.device"),
    "error": Field("coalesce(job.error, '')"),
    "progress": Field("job.done / job.total", "number"),
    "left": Field("job.seconds_left", "number"),
    "when": Field("job.created", "time"),
}

JOBS = Listing(table="job", key="job.id", columns=_LISTED, build=_row, fields=_FIELDS)
JOB = Listing(
    table="job",
    key="job.id",
    columns=(
        *_LISTED,
        "job.spec",
        "job.device",
        "job.pid",
        "job.attempt",
        "job.heartbeat",
        "job.memory",
        "job.result",
    ),
    build=_detail,
    fields=_FIELDS,
)
