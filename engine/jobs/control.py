"""Control jobs from another process: submit, follow, stop and resume them. Imports SQLModel only when it writes."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ...store.home import Home
from ...store.states import ENDED_STATES, Stop
from .devices import list_devices
from .locks import hold_lock, is_locked, job_lock_path
from .reap import reap
from .sessions import build_scope_command

if TYPE_CHECKING:
    from ...store.catalog.tables import Job
    from .specs import Spec

# Time for a job to reach a checkpoint after a stop request, and again to end after SIGTERM.
STOP_GRACE_SECONDS = 30.0
_POLL_SECONDS = 0.2
# No telemetry unless the user's environment enables it, and no progress bars in the log.
QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def submit(catalog: Catalog, spec: "Spec", device: str | None = None, priority: int = 0) -> "Job":
    """Write a job's row and start its process, which outlives this one. Returns at once.

    Raises:
        store.errors.InputError: the home's config file is not valid.
    """
    from ...store import jobs as rows
    from ...store.config import read_config

    read_config(catalog.home)
    with ExitStack() as stack:
        with catalog.write() as session:
            job = rows.create(session, spec.kind, spec.as_dict(), device or list_devices()[0], priority)
            # Before the row is visible: another process would mark a job without a lock as interrupted.
            lock = stack.enter_context(hold_lock(job_lock_path(catalog.home, _id(job))))
        start_worker(catalog.home, _id(job), lock)
    return job


def resume(catalog: Catalog, job_id: int) -> "Job":
    """Restart an interrupted, failed, paused or cancelled job from its checkpoint.

    Raises:
        store.errors.InputError: the job is in another state, or its process is still ending.
    """
    from ...store import jobs as rows

    reap(catalog)
    with ExitStack() as stack:
        with catalog.write() as session:
            job = rows.requeue(session, job_id)
            try:
                lock = stack.enter_context(hold_lock(job_lock_path(catalog.home, job_id)))
            except BlockingIOError:
                raise InputError(
                    f"the process of job {job_id} is still ending; try again in a moment"
                ) from None
        start_worker(catalog.home, job_id, lock)
    return job


def resume_all(catalog: Catalog) -> list[int]:
    """Restart all interrupted jobs, oldest first, for example after a reboot. Returns their ids."""
    from ...store import jobs as rows

    reap(catalog)
    with catalog.read() as session:
        ids = sorted(_id(job) for job in rows.list_jobs(session, ("interrupted",)))
    for job_id in ids:
        resume(catalog, job_id)
    return ids


def request_stop(catalog: Catalog, job_id: int, how: Stop = "cancel") -> "Job":
    """Request that a job stops at its next checkpoint. A job without a process ends at once."""
    from ...store import jobs as rows

    reap(catalog)
    with catalog.write() as session:
        return rows.request_stop(session, job_id, how)


def stop(
    catalog: Catalog,
    job_id: int,
    how: Stop = "cancel",
    grace: float = STOP_GRACE_SECONDS,
    on_step: Callable[[str], None] = lambda _step: None,
) -> "Job":
    """Stop a job and wait until it has ended. Its checkpoint is always kept.

    The job may end at its next checkpoint. After `grace` seconds it gets SIGTERM, after as many again SIGKILL.
    `on_step` receives a sentence for each step.
    """
    job = request_stop(catalog, job_id, how)
    if job.state in ENDED_STATES:
        return job
    on_step(f"Job {job_id} stops at its next checkpoint.")
    for number, step in (
        (signal.SIGTERM, f"It reached no checkpoint in {grace:g} s. Sending SIGTERM."),
        (signal.SIGKILL, f"It has not ended after another {grace:g} s. Sending SIGKILL."),
    ):
        job = follow(catalog, job_id, seconds=grace)
        # While the lock is held, the pid in the row cannot belong to a later process.
        if job.state in ENDED_STATES or not is_alive(catalog.home, job) or job.pid is None:
            break
        on_step(step)
        os.kill(job.pid, number)
    return follow(catalog, job_id)


def follow(
    catalog: Catalog,
    job_id: int,
    on_change: "Callable[[Job], None]" = lambda _job: None,
    seconds: float = math.inf,
) -> "Job":
    """Wait for a job to end, at most some seconds, and call `on_change` whenever its row has changed.

    An exception or signal that ends the wait does not stop the job.
    """
    from ...store import jobs as rows

    deadline = time.monotonic() + seconds
    previous = None
    while True:
        version = catalog.data_version()
        if version != previous:
            with catalog.read() as session:
                job = rows.get(session, job_id)
            on_change(job)
            previous = version
        if job.state in ENDED_STATES or time.monotonic() > deadline:
            return job
        time.sleep(_POLL_SECONDS)
        if not is_locked(job_lock_path(catalog.home, job_id)):
            reap(catalog)


def is_alive(home: Home, job: "Job") -> bool:
    """Whether the job has a process, running or starting."""
    return is_locked(job_lock_path(home, _id(job)))


def start_worker(home: Home, job_id: int, lock: int) -> None:
    """Start a worker in a new session. It inherits the job's lock, but no terminal, no pipe and no signal."""
    log = os.open(home.job_log(job_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    worker = [sys.executable, "-m", "retcon.engine.jobs.worker", str(job_id), str(lock)]
    try:
        subprocess.Popen(
            [*build_scope_command(), *worker],
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=QUIET_ENVIRONMENT | os.environ | {"RETCON_HOME": str(home.root)},
        )
    finally:
        os.close(log)


def _id(job: "Job") -> int:
    assert job.id is not None
    return job.id
