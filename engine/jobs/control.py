"""From the terminal's side: submit a job, follow its row, stop it, find out that its process died."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ...store import jobs as rows
from ...store.catalog import Catalog
from ...store.home import Home
from ...store.tables import ENDED_STATES, Job
from .devices import devices
from .locks import is_held, job_lock
from .specs import Spec

_POLL_SECONDS = 0.2
# A process that has not claimed its job by then never came up.
_START_SECONDS = 60.0


def submit(catalog: Catalog, spec: Spec, device: str | None = None) -> Job:
    """Write a job's row and start its process, which outlives this one. Returns at once."""
    with catalog.write() as session:
        job = rows.create(session, spec.kind, spec.as_dict(), device or devices()[0])
    _start(catalog.home, _id(job))
    return job


def resume(catalog: Catalog, job_id: int) -> Job:
    """Start an interrupted, failed or cancelled job again; it goes on from its checkpoint.

    Raises:
        store.errors.InputError: the job is none of these.
    """
    reap(catalog)
    with catalog.write() as session:
        job = rows.requeue(session, job_id)
    _start(catalog.home, job_id)
    return job


def cancel(catalog: Catalog, job_id: int) -> Job:
    """Ask a job to stop at its next checkpoint; one whose process is gone is interrupted."""
    reap(catalog)
    with catalog.write() as session:
        return rows.request_cancel(session, job_id)


def follow(catalog: Catalog, job_id: int, on_change: Callable[[Job], None] = lambda _job: None) -> Job:
    """Wait for a job to end, calling `on_change` whenever its row changed. Letting go does not stop the job."""
    seen = None
    while True:
        version = catalog.data_version()
        if version != seen:
            with catalog.read() as session:
                job = rows.get(session, job_id)
            on_change(job)
            if job.state in ENDED_STATES:
                return job
            seen = version
        time.sleep(_POLL_SECONDS)
        if not is_held(job_lock(catalog.home, job_id)):
            reap(catalog)


def reap(catalog: Catalog) -> list[int]:
    """Mark the jobs whose process is gone as interrupted; returns their ids."""
    dead = []
    with catalog.read() as session:
        candidates = rows.list_jobs(session, ("queued", "waiting", "running"))
    for job in candidates:
        if not is_held(job_lock(catalog.home, _id(job))) and not (job.state == "queued" and _is_young(job)):
            with catalog.write() as session:
                if rows.interrupt(session, _id(job), job.owner):
                    dead.append(_id(job))
    return dead


def log_path(home: Home, job_id: int) -> Path:
    """Where a job's process writes what it has to say."""
    return home.job_log(job_id)


def _is_young(job: Job) -> bool:
    return datetime.now(UTC) - (job.heartbeat or job.created) < timedelta(seconds=_START_SECONDS)


def _start(home: Home, job_id: int) -> None:
    """Start a worker in a session of its own: no terminal, no pipe, and no signal of this one reaches it."""
    log = os.open(log_path(home, job_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        subprocess.Popen(
            [sys.executable, "-m", "retcon.engine.jobs.worker", str(job_id)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"RETCON_HOME": str(home.root), **_QUIET},
        )
    finally:
        os.close(log)


# Nothing is told to anyone that the user did not ask for, and no progress bars in the log.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def _id(job: Job) -> int:
    assert job.id is not None
    return job.id
