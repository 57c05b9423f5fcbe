"""A job from its own process's side: its spec, its progress, its checkpoints, and whether to stop."""

import math
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

from ....store import jobs as rows
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Job
from ...errors import StopRequested
from ...progress import Progress
from ..devices import measure_memory

# At most two writes a second; whoever watches sees no more anyway.
_WRITE_SECONDS = 0.5
# What has not changed is written again so often, as a sign of life.
_SAME_SECONDS = 5.0
# How far back the rate that is shown looks; and that of the share of the work, which the time left is told from.
_RATE_SECONDS = 20.0
_PACE_SECONDS = 120.0


class RunningJob:
    """The claimed job. Every write carries the owner's token, so a stale process cannot overwrite a newer one."""

    def __init__(self, catalog: Catalog, job: Job, owner: str) -> None:
        assert job.id is not None
        self.catalog, self.job, self.id, self.owner = catalog, job, job.id, owner
        self.stopping = False
        self._written = 0.0
        self._told: tuple[float, str] | None = None
        self._rate, self._pace = _Rate(_RATE_SECONDS), _Rate(_PACE_SECONDS)

    def reload(self) -> None:
        """Read the row anew: what is checkpointed there is what the work goes on from."""
        with self.catalog.read() as session:
            self.job = rows.get(session, self.id)

    def report_activity(self, activity: str) -> None:
        """What is being done now, where nothing can be counted. Raises `StopRequested` if asked to stop."""
        self.report(Progress(0, None, "", activity))

    def report(self, progress: Progress) -> None:
        """Write progress, at most twice a second. Raises `StopRequested` if somebody asked to stop."""
        if self.stopping:
            raise StopRequested
        now = time.monotonic()
        self._rate.note(now, progress.unit, progress.done)
        if progress.share is not None:
            self._pace.note(now, progress.unit, progress.share)
        told = (progress.done, progress.activity)
        if now - self._written < _WRITE_SECONDS and (progress.total is not None or told == self._told):
            return
        if told == self._told and now - self._written < _SAME_SECONDS:
            # It waits: nobody has to hear the same again, but it has to hear who wants it to stop.
            with self.catalog.read() as session:
                self.stopping |= rows.get(session, self.id).stop_request is not None
            if self.stopping:
                raise StopRequested
            return
        self._written, self._told = now, told
        with self.catalog.write() as session:
            rows.save_progress(
                session,
                self.id,
                self.owner,
                done=progress.done,
                total=progress.total,
                unit=progress.unit,
                rate=self._rate.per_second,
                seconds_left=self._seconds_left(progress),
                activity=progress.activity,
                memory=measure_memory(self.job.device),
            )
            self.stopping |= rows.get(session, self.id).stop_request is not None
        if self.stopping:
            raise StopRequested

    def pause(self) -> NoReturn:
        """Stop here until a person resumes the job; who has asked to cancel it meanwhile has it cancelled."""
        with self.catalog.write() as session:
            rows.pause_owned(session, self.id, self.owner)
        raise StopRequested

    def write_nodes(self, nodes: dict[str, Any]) -> None:
        """Write which nodes work at the job, and their rates: host, state, workers, done, unit, rate by a node's id."""
        with self.catalog.write() as session:
            rows.save_nodes(session, self.id, self.owner, nodes)

    def _seconds_left(self, progress: Progress) -> float | None:
        if progress.share is not None:
            left, per_second = 1.0 - progress.share, self._pace.per_second
        else:
            left, per_second = (progress.total or 0.0) - progress.done, self._rate.per_second
        return None if progress.total is None or not per_second else max(0.0, left) / per_second

    def checkpoint(self, session: Any, state: dict[str, Any]) -> None:
        """Note where a resumed job goes on, in the transaction of the results that it counts."""
        rows.save_checkpoint(session, self.id, self.owner, state)
        self.job.checkpoint = state

    def commit_result(self, session: Any, made: dict[str, Any]) -> dict[str, Any]:
        """Note what was made, in the transaction that saves it: a job killed after it does not make it twice.

        Raises LostOwnership, which undoes the transaction. Returns `made`.
        """
        self.checkpoint(session, self.job.checkpoint | {"result": made})
        return made

    @property
    def saved_result(self) -> dict[str, Any] | None:
        """What an earlier attempt saved before it died, if it came so far."""
        return self.job.checkpoint.get("result")

    @property
    def results_checkpoint(self) -> Path:
        """A file beside the job's log for results that a resumed job goes on from; whoever makes it removes it."""
        return self.catalog.home.logs / f"job-{self.id}.kept.jsonl"

    @property
    def training_checkpoint(self) -> Path:
        """The state of a training, beside the job's log; whoever makes it removes it."""
        return self.catalog.home.logs / f"job-{self.id}.training.safetensors"

    def check_room(self, size: int) -> None:
        """Refuse to begin a write that the disk has no room for.

        Raises:
            OSError: ENOSPC.
        """
        import errno

        free = shutil.disk_usage(self.catalog.home.root).free
        if free < size:
            raise OSError(
                errno.ENOSPC,
                f"{size / 1e6:.0f} MB are needed in {self.catalog.home.root}, {free / 1e6:.0f} MB are free",
            )


class _Rate:
    """What is done per second: over the whole at first, later over some time back. A new unit starts it anew."""

    def __init__(self, seconds: float) -> None:
        self.per_second: float | None = None
        self._seconds = seconds
        self._unit: str | None = None
        self._at = self._done = self._elapsed = self._gained = 0.0

    def note(self, now: float, unit: str, done: float) -> None:
        if unit != self._unit or done < self._done:
            self._unit, self.per_second = unit, None
            self._at, self._done, self._elapsed, self._gained = now, done, 0.0, 0.0
            return
        elapsed = now - self._at
        if done == self._done or elapsed < _WRITE_SECONDS:
            return
        kept = math.exp(-elapsed / self._seconds)
        self._elapsed, self._gained = kept * self._elapsed + elapsed, kept * self._gained + done - self._done
        self.per_second = self._gained / self._elapsed
        self._at, self._done = now, done
