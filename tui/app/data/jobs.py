"""Jobs: the list, the detail of one job, the active jobs, and logs."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ....store.catalog.catalog import Catalog
from ....store.states import ALIVE_STATES
from .filters import Field
from .rows import Key, UnreadableRow, list_records, load_rows

# The fields of a spec that the list shows. Only these are read: an edit's spec may hold thousands of requests.
_SPEC_FIELDS = ("model", "name", "source", "prompt", "facts", "subject", "reverts", "revision", "layers", "folder",
         "requests[0].subject", "requests[0].target_new")  # fmt: skip
_TAIL_BYTES = 16_384
J = TypeVar("J", bound="JobRow")


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
    detail: str
    error: str | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    # Model, facts or prompt of the job.
    about: str

    @property
    def is_active(self) -> bool:
        """Whether the job has not ended."""
        return self.state in ALIVE_STATES


@dataclass(frozen=True)
class JobDetail(JobRow):
    """The detail of one job."""

    spec: dict[str, Any]
    device: str
    pid: int | None
    attempt: int
    memory: int | None
    result: dict[str, Any]


@dataclass(frozen=True)
class ActiveJobs:
    """(id, state) of the jobs that have not ended, the highest id, and the number of interrupted jobs."""

    jobs: tuple[tuple[int, str], ...]
    newest: int
    interrupted: int

    def count(self, *states: str) -> int:
        """Number of active jobs in these states."""
        return sum(state in states for _, state in self.jobs)


def load_active_jobs(catalog: Catalog) -> ActiveJobs:
    """Read the active jobs."""
    # `+id` makes SQLite use the index of the states. Ordered by `id`, it would scan all jobs.
    with catalog.read_connection() as connection:
        active = connection.execute(
            f"SELECT id, state FROM job WHERE state IN ({', '.join(map(repr, ALIVE_STATES))}) ORDER BY +id"
        ).fetchall()
        (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM job").fetchone()
        (interrupted,) = connection.execute("SELECT count(*) FROM job WHERE state = 'interrupted'").fetchone()
    return ActiveJobs(tuple(active), newest, interrupted)


def load_ended_jobs(catalog: Catalog, ids: Collection[int], after: int) -> list[JobRow | UnreadableRow]:
    """The ended jobs among `ids` and the jobs newer than `after`."""
    with catalog.read_connection() as connection:
        newer = [id for (id,) in connection.execute("SELECT id FROM job WHERE id > ?", [after])]
    keys: list[Key] = [*ids, *newer]
    rows = load_rows(catalog, JOBS, keys).values() if keys else ()
    return [row for row in rows if isinstance(row, UnreadableRow) or not row.is_active]


def load_interrupted_jobs(catalog: Catalog, limit: int) -> list[JobRow]:
    """The newest interrupted jobs."""
    sql = "SELECT id FROM job WHERE state = 'interrupted' ORDER BY id DESC LIMIT ?"
    with catalog.read_connection() as connection:
        ids = [id for (id,) in connection.execute(sql, [limit])]
    rows = load_rows(catalog, JOBS, ids) if ids else {}
    return [row for row in rows.values() if isinstance(row, JobRow)]


class LogTail:
    """The last lines of a growing log; each read continues where the previous one ended."""

    def __init__(self, path: Path, max_bytes: int = 4_000_000, max_lines: int = 20_000) -> None:
        self.path = path
        self.lines: list[str] = []
        self._max_bytes, self._max_lines = max_bytes, max_lines
        self._offset: int | None = None
        # The last line if it has no line end yet.
        self._partial = ""

    def read(self) -> bool:
        """Read new lines; returns whether there were any. A log that was restarted is read from the start."""
        try:
            size = self.path.stat().st_size
            if self._offset is None or size < self._offset:
                self.lines, self._partial = [], ""
                self._offset = max(0, size - self._max_bytes)
            if size == self._offset:
                return False
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read(size - self._offset).decode(errors="replace")
        except OSError:
            return False
        is_cut = self._offset > 0 and not self.lines
        self._offset = size
        if self._partial:
            self.lines.pop()
        *lines, self._partial = (self._partial + text).split("\n")
        if is_cut:
            lines = lines[1:]
        self.lines += [visible_part(line) for line in (*lines, self._partial) if line.strip()]
        del self.lines[: -self._max_lines]
        if not self._partial.strip():
            self._partial = ""
        return True


def read_log_tail(path: Path) -> list[str]:
    """The last lines of a log."""
    log = LogTail(path, _TAIL_BYTES)
    log.read()
    return log.lines


def visible_part(line: str) -> str:
    """The last text of a line that a progress bar overwrote."""
    return line.rstrip("\r").rsplit("\r", 1)[-1]


def _describe(job: J) -> J:
    """Replace the values of `_SPEC_FIELDS` in `about` by one line: the model, then the fact set, prompt or layers."""
    kind, spec = job.kind, dict(zip(_SPEC_FIELDS, json.loads(job.about), strict=True))
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
    return replace(job, about=" · ".join(str(part) for part in parts if part))


_PATHS = ", ".join(f"'$.{path}'" for path in _SPEC_FIELDS)
_ABOUT = {"about": f"json_extract(job.spec, {_PATHS})"}
_FIELDS = {
    "state": Field("job.state"),
    "id": Field("job.id", "number"),
    "kind": Field("job.kind"),
    # As JSON, so that filters search all these fields of the spec.
    "about": Field(f"CASE WHEN json_valid(job.spec) THEN json_extract(job.spec, {_PATHS}) END"),
    "device": Field("job.device"),
    "error": Field("coalesce(job.error, '')"),
    "progress": Field("job.done / job.total", "number"),
    "left": Field("job.seconds_left", "number"),
    "when": Field("job.created", "time"),
}

JOBS = list_records(JobRow, "job", _ABOUT, complete=_describe, fields=_FIELDS)
JOB = list_records(JobDetail, "job", _ABOUT, complete=_describe, fields=_FIELDS)
