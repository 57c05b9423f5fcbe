"""The process of one job: `python -m retcon.engine.jobs.worker ID [LOCK]`, LOCK the descriptor that holds its lock.

It holds the job's lock for its whole life, claims the row, waits for its device, and only then imports torch.
Whatever happens ends in one of the row's states, with the reason in one sentence; a traceback goes to the log.
"""

import gc
import importlib
import os
import signal
import sys
import traceback
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

from ....store import jobs as rows
from ....store.catalog.catalog import Catalog
from ....store.errors import CatalogError, LostOwnership
from ...errors import EndpointError, InputError, StopRequested
from ...model.limits import halve_batch_limit
from ..cost import estimate_cost
from ..locks import hold_lock, is_descriptor_of, job_lock_path
from ..notice import run_on_finish
from ..specs import SPECS, Spec
from .queue import hold_devices, is_disk_full, wait_for_space
from .running import RunningJob

# For each kind of job, the module of `runs` and its function that does the job: (running, spec) -> result.
RUNS = {
    "ask": "ask:run",
    "covariance": "covariance:run",
    "edit": "edit:run",
    "evaluation": "evaluation:run",
    "export": "export:run",
    "import_edits": "history:run_import_edits",
    "model": "add_model:run",
    "passage": "passage:run",
    "preflight": "preflight:run",
    "publish": "publish:run_publish",
    "revert": "history:run_revert",
    "sweep": "sweep:run",
    "trace": "trace:run",
    "unpublish": "publish:run_unpublish",
    "verify": "history:run_verify",
}
# What the catalog and a checkpoint want at least.
_LEAST_ROOM = 8_000_000


def main(job_id: int, lock: int | None = None) -> int:
    """Run one job; the exit status is 0 if it is done."""
    os.umask(0o077)
    catalog = Catalog.open(migrate=False)
    owner = uuid.uuid4().hex
    with ExitStack() as alive:
        alive.callback(catalog.close)
        if not _hold(job_lock_path(catalog.home, job_id), lock, alive):
            return 1
        with catalog.write() as session:
            if not rows.claim(session, job_id, owner, os.getpid()):
                return 1
            job = rows.get(session, job_id)
        running = RunningJob(catalog, job, owner)

        def stop(_signal: int, _frame: object) -> None:
            """Go now, wherever this is: what is checkpointed stays. Once; the way out is not disturbed again."""
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            running.stopping = True
            raise StopRequested

        signal.signal(signal.SIGTERM, stop)
        return _run(running)


def _hold(path: Path, handed: int | None, stack: ExitStack) -> bool:
    """Hold the job's lock until the stack ends; False if another process keeps it."""
    if handed is not None and is_descriptor_of(handed, path):
        os.set_inheritable(handed, False)  # whatever this process starts does not count as the job
        stack.callback(os.close, handed)
        return True
    try:
        stack.enter_context(hold_lock(path))
    except BlockingIOError:
        return False
    return True


def _run(running: RunningJob) -> int:
    try:
        made = running.saved_result or _made(running)
        with running.catalog.write(durable=True) as session:
            rows.finish(session, running.id, running.owner, made)
    except LostOwnership as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        # What SIGTERM came into the middle of may have made an error of its own of it.
        if running.stopping or isinstance(error, StopRequested):
            with running.catalog.write() as session:
                rows.mark_stopped(session, running.id, running.owner)
        elif isinstance(error, InputError):
            _fail(running, str(error), "input")
        else:
            _log_traceback()
            _fail(running, _sentence(error), "failure")
    with running.catalog.read() as session:
        job = rows.get(session, running.id)
    run_on_finish(running.catalog.home, job)
    return 0 if job.state == "done" else 1


def _made(running: RunningJob) -> dict[str, Any]:
    """Do the work on its devices, and go on as a resume does where it could not: the disk is full, so let go of the
    devices and wait for room; or memory ran out, so do half as much at once.
    """
    spec = SPECS[running.job.kind](**running.job.spec)
    while True:
        try:
            with ExitStack() as stack:
                hold_devices(running, stack)
                with running.catalog.write() as session:
                    rows.mark_running(session, running.id, running.owner)
                return _work(running, spec)
        except Exception as error:
            full = is_disk_full(error)
            if running.stopping or (not full and not (_is_out_of_memory(error) and halve_batch_limit())):
                raise
            _log_traceback()
        # Outside the except clause, where the error no longer holds on to a model in memory.
        _free_memory()
        if full:
            cost = estimate_cost(running.catalog, spec, running.job.device)
            wait_for_space(running, max(_LEAST_ROOM, cost.disk if cost else 0))
        else:
            print("out of memory: going on with half as much at once", file=sys.stderr)
            with running.catalog.write() as session:
                rows.mark_waiting(
                    session, running.id, running.owner, "out of memory: going on with half as much at once"
                )
        running.reload()


def _work(running: RunningJob, spec: Spec) -> dict[str, Any]:
    cost = estimate_cost(running.catalog, spec, running.job.device)
    if cost is not None:
        for warning in cost.warnings:
            print(warning, file=sys.stderr)
        if spec.kind != "trace":  # of which little is known: its bound is several times what it writes
            running.check_room(cost.disk)
    module, _, function = RUNS[spec.kind].partition(":")
    run = getattr(importlib.import_module(f"..runs.{module}", __package__), function)
    made: dict[str, Any] = run(running, spec)
    return made


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)


def _free_memory() -> None:
    """Give back what a failed attempt held: of the GPU, too, where the allocator keeps it for the next one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _log_traceback() -> None:
    with suppress(OSError):  # the log lies on the disk that may be full
        traceback.print_exc()


def _fail(running: RunningJob, error: str, kind: Literal["input", "failure"]) -> None:
    with running.catalog.write() as session:
        rows.fail(session, running.id, running.owner, error, kind)


def _sentence(error: Exception) -> str:
    """Why a job failed, for a person."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, CatalogError | EndpointError):
        return first
    if _is_out_of_memory(error):
        return f"out of memory on this device; free it, or choose a smaller model or dtype ({first})"
    return f"{type(error).__name__}: {first}; the job's log has the traceback"


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
