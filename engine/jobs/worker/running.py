"""A job inside its worker: it reports progress, writes checkpoints, and checks for a requested stop."""

import errno
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

# At most two writes a second; displays refresh no faster.
_WRITE_SECONDS = 0.5
# Unchanged progress is written this often, as a heartbeat.
_UNCHANGED_SECONDS = 5.0
# Averaging times: of the displayed rate, and of the completed share, which predicts the time left.
_RATE_SECONDS = 20.0
_SHARE_SECONDS = 120.0


class RunningJob:
    """A claimed job. Each write carries the owner's token, so that a stale process cannot overwrite a newer one."""

    def __init__(self, catalog: Catalog, job: Job, owner: str) -> None:
        assert job.id is not None
        self.catalog, self.job, self.id, self.owner = catalog, job, job.id, owner
        self.stopping = False
        self._written_at = 0.0
        self._written: tuple[float, str, str] | None = None
        self._rate, self._share_rate = _Rate(_RATE_SECONDS), _Rate(_SHARE_SECONDS)

    def reload(self) -> None:
        """Read the row again, for example to continue from its checkpoint."""
        with self.catalog.read() as session:
            self.job = rows.get(session, self.id)

    def report_activity(self, activity: str, detail: str = "") -> None:
        """Report the current activity without a count. Raises `StopRequested` if a stop was requested."""
        self.report(Progress(0, None, "", activity, detail))

    def report(self, progress: Progress) -> None:
        """Write progress, at most twice a second. Raises `StopRequested` if a stop was requested."""
        if self.stopping:
            raise StopRequested
        now = time.monotonic()
        self._rate.add(now, progress.unit, progress.done)
        if progress.share is not None:
            self._share_rate.add(now, progress.unit, progress.share)
        current = (progress.done, progress.activity, progress.detail)
        elapsed = now - self._written_at
        is_unchanged = current == self._written
        if elapsed < _WRITE_SECONDS and (progress.total is not None or is_unchanged):
            return
        if is_unchanged and elapsed < _UNCHANGED_SECONDS:
            # A waiting job writes nothing new, but must notice a requested stop.
            with self.catalog.read() as session:
                self.stopping |= rows.get(session, self.id).stop_request is not None
        else:
            self._written_at, self._written = now, current
            self._write(progress)
        if self.stopping:
            raise StopRequested

    def _write(self, progress: Progress) -> None:
        with self.catalog.write() as session:
            rows.save_progress(
                session,
                self.id,
                self.owner,
                done=progress.done,
                total=progress.total,
                unit=progress.unit,
                rate=self._rate.per_second,
                seconds_left=self._predict_seconds_left(progress),
                activity=progress.activity,
                detail=progress.detail,
                memory=measure_memory(self.job.device),
            )
            self.stopping |= rows.get(session, self.id).stop_request is not None

    def _predict_seconds_left(self, progress: Progress) -> float | None:
        if progress.share is not None:
            left, per_second = 1.0 - progress.share, self._share_rate.per_second
        else:
            left, per_second = (progress.total or 0.0) - progress.done, self._rate.per_second
        return None if progress.total is None or not per_second else max(0.0, left) / per_second

    def pause(self) -> NoReturn:
        """Pause until a user resumes the job. A cancel request that came first takes precedence."""
        with self.catalog.write() as session:
            rows.pause_owned(session, self.id, self.owner)
        raise StopRequested

    def write_nodes(self, nodes: dict[str, Any]) -> None:
        """Write the nodes of a cluster that work on the job, by node id: host, state, workers, done, unit, rate."""
        with self.catalog.write() as session:
            rows.save_nodes(session, self.id, self.owner, nodes)

    def checkpoint(self, session: Any, state: dict[str, Any]) -> None:
        """Write the state to resume from, in the transaction of the results that it counts."""
        rows.save_checkpoint(session, self.id, self.owner, state)
        self.job.checkpoint = state

    def commit_result(self, session: Any, result: dict[str, Any]) -> dict[str, Any]:
        """Write the job's result in the transaction that saves it, so that a killed job does not save it twice.

        Returns `result`. Raises LostOwnership, which rolls the transaction back.
        """
        self.checkpoint(session, self.job.checkpoint | {"result": result})
        return result

    @property
    def results_checkpoint(self) -> Path:
        """A file of partial results that a resumed job continues. The job that writes it must delete it."""
        return self.catalog.home.logs / f"job-{self.id}.kept.jsonl"

    @property
    def training_checkpoint(self) -> Path:
        """A file with the state of a training. The job that writes it must delete it."""
        return self.catalog.home.logs / f"job-{self.id}.training.safetensors"

    def check_space(self, size: int) -> None:
        """Raise OSError (ENOSPC) if the disk has less than `size` free bytes, before anything is written."""
        root = self.catalog.home.root
        free = shutil.disk_usage(root).free
        if free < size:
            message = f"{size / 1e6:.0f} MB are needed in {root}, {free / 1e6:.0f} MB are free"
            raise OSError(errno.ENOSPC, message)


class _Rate:
    """Units per second as an exponential moving average. A new unit or a smaller count restarts it."""

    def __init__(self, seconds: float) -> None:
        self.per_second: float | None = None
        self._seconds = seconds
        self._unit: str | None = None
        self._at = self._done = self._elapsed = self._gained = 0.0

    def add(self, now: float, unit: str, done: float) -> None:
        if unit != self._unit or done < self._done:
            self._unit, self.per_second = unit, None
            self._at, self._done, self._elapsed, self._gained = now, done, 0.0, 0.0
            return
        elapsed = now - self._at
        if done == self._done or elapsed < _WRITE_SECONDS:
            return
        decay = math.exp(-elapsed / self._seconds)
        self._elapsed, self._gained = (
            decay * self._elapsed + elapsed,
            decay * self._gained + done - self._done,
        )
        self.per_second = self._gained / self._elapsed
        self._at, self._done = now, done
