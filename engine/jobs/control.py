"""From the terminal's side: submit a job, follow its row, stop it, find out that its process died."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from ...store import jobs as rows
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Job
from ...store.config import read_config
from ...store.errors import InputError
from ...store.home import Home
from ...store.states import ENDED_STATES, Stop
from .devices import devices
from .listing import GRACE_SECONDS, reap
from .locks import held, is_held, job_lock
from .sessions import surviving
from .specs import Spec

_POLL_SECONDS = 0.2


def submit(catalog: Catalog, spec: Spec, device: str | None = None, priority: int = 0) -> Job:
    """Write a job's row and start its process, which outlives this one. Returns at once.

    Raises:
        store.errors.InputError: the home's config file is wrong, which the process would stumble over.
    """
    read_config(catalog.home)
    with ExitStack() as stack:
        with catalog.write() as session:
            job = rows.create(session, spec.kind, spec.as_dict(), device or devices()[0], priority)
            # Before anybody sees the row: who finds it without a process takes it for dead.
            lock = stack.enter_context(held(job_lock(catalog.home, _id(job))))
        _start(catalog.home, _id(job), lock)
    return job


def resume(catalog: Catalog, job_id: int) -> Job:
    """Start an interrupted, failed, paused or cancelled job again; it goes on from its checkpoint.

    Raises:
        store.errors.InputError: the job is none of these, or its process has not quite gone yet.
    """
    reap(catalog)
    with ExitStack() as stack:
        with catalog.write() as session:
            job = rows.requeue(session, job_id)
            try:
                lock = stack.enter_context(held(job_lock(catalog.home, job_id)))
            except BlockingIOError:
                raise InputError(
                    f"the process of job {job_id} is still ending; try again in a moment"
                ) from None
        _start(catalog.home, job_id, lock)
    return job


def resume_all(catalog: Catalog) -> list[int]:
    """Start all interrupted jobs again, the oldest first: what a reboot leaves. Returns their ids."""
    reap(catalog)
    with catalog.read() as session:
        ids = sorted(_id(job) for job in rows.list_jobs(session, ("interrupted",)))
    for job_id in ids:
        resume(catalog, job_id)
    return ids


def ask_to_stop(catalog: Catalog, job_id: int, how: Stop = "cancel") -> Job:
    """Ask a job to stop at its next checkpoint; one whose process is gone ends at once."""
    reap(catalog)
    with catalog.write() as session:
        return rows.request_stop(session, job_id, how)


def stop(
    catalog: Catalog,
    job_id: int,
    how: Stop = "cancel",
    grace: float = GRACE_SECONDS,
    say: Callable[[str], None] = lambda _step: None,
) -> Job:
    """Stop a job and wait for it: at its next checkpoint, after `grace` seconds by SIGTERM, after as many by SIGKILL.

    `say` is told each step. Whatever step it takes, what was checkpointed stays.
    """
    job = ask_to_stop(catalog, job_id, how)
    if job.state in ENDED_STATES:
        return job
    say(f"Job {job_id} stops at its next checkpoint.")
    for number, said in (
        (signal.SIGTERM, f"It reached none in {grace:g} s and is told to go at once (SIGTERM)."),
        (signal.SIGKILL, f"It is still there after {grace:g} s and is killed (SIGKILL)."),
    ):
        job = _await_end(catalog, job_id, grace)
        # Its lock is held: the pid in the row is that of the process, not of one that came after it.
        if job.state in ENDED_STATES or not is_held(job_lock(catalog.home, job_id)) or job.pid is None:
            break
        say(said)
        os.kill(job.pid, number)
    return follow(catalog, job_id)


def _await_end(catalog: Catalog, job_id: int, seconds: float) -> Job:
    """The job when it has ended, or after some seconds."""
    until = time.monotonic() + seconds
    while True:
        reap(catalog)
        with catalog.read() as session:
            job = rows.get(session, job_id)
        if job.state in ENDED_STATES or time.monotonic() > until:
            return job
        time.sleep(_POLL_SECONDS)


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


def is_alive(home: Home, job: Job) -> bool:
    """Whether a process has the job, or is being started for it."""
    return is_held(job_lock(home, _id(job)))


def _start(home: Home, job_id: int, lock: int) -> None:
    """Start a worker in a session of its own, which holds the job's lock from the start.

    No terminal, no pipe, and no signal of this one reaches it.
    """
    log = os.open(home.job_log(job_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        subprocess.Popen(
            [
                *surviving(),
                sys.executable,
                "-m",
                "retcon.engine.jobs.worker",
                str(job_id),
                str(lock),
            ],
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=QUIET | os.environ | {"RETCON_HOME": str(home.root)},
        )
    finally:
        os.close(log)


# Nothing is told to anyone unless the user's own environment asks for it, and no progress bars in the log.
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def _id(job: Job) -> int:
    assert job.id is not None
    return job.id
