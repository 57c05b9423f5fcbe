"""The process of one job: `python -m retcon.engine.jobs.worker ID [LOCK]`, with LOCK the descriptor of the job's lock.

The process holds the job's lock until it ends. It claims the row, waits for its devices, and only then imports torch.
Every outcome is written as a state of the row with the reason in one sentence; a traceback goes to the log.
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
from ...model import limits
from ..cost import estimate_cost
from ..locks import hold_lock, is_descriptor_of, job_lock_path
from ..notice import run_on_finish
from ..specs import Spec, read_spec
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
# Bytes that the catalog and a checkpoint need at least.
_MIN_SPACE = 8_000_000
_HALVED = "out of memory: continuing with half the batch size"


def main(job_id: int, lock: int | None = None) -> int:
    """Run one job; the exit status is 0 if it is done."""
    os.umask(0o077)
    catalog = Catalog.open(migrate=False)
    owner = uuid.uuid4().hex
    with ExitStack() as stack:
        stack.callback(catalog.close)
        if not _hold_job_lock(job_lock_path(catalog.home, job_id), lock, stack):
            return 1
        with catalog.write() as session:
            if not rows.claim(session, job_id, owner, os.getpid()):
                return 1
            job = rows.get(session, job_id)
        running = RunningJob(catalog, job, owner)

        def stop(_signal: int, _frame: object) -> None:
            """Stop at once, wherever the job is. A second SIGTERM does not disturb the cleanup."""
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            running.stopping = True
            raise StopRequested

        signal.signal(signal.SIGTERM, stop)
        return _run(running)


def _hold_job_lock(path: Path, inherited: int | None, stack: ExitStack) -> bool:
    """Hold the job's lock until the stack closes; False if another process holds it."""
    if inherited is not None and is_descriptor_of(inherited, path):
        os.set_inheritable(inherited, False)  # children of this process must not keep the job alive
        stack.callback(os.close, inherited)
        return True
    try:
        stack.enter_context(hold_lock(path))
    except BlockingIOError:
        return False
    return True


def _run(running: RunningJob) -> int:
    """Do the job and write its final state."""
    try:
        # An earlier attempt may have been killed after it committed its result.
        result = running.job.checkpoint.get("result") or work_with_retries(running)
        with running.catalog.write(durable=True) as session:
            rows.finish(session, running.id, running.owner, result)
    except LostOwnership as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        # A library that SIGTERM interrupted may have replaced StopRequested by its own error.
        if running.stopping or isinstance(error, StopRequested):
            with running.catalog.write() as session:
                rows.mark_stopped(session, running.id, running.owner)
        elif isinstance(error, InputError):
            _fail(running, str(error), "input")
        else:
            _log_traceback()
            _fail(running, _describe_failure(error), "failure")
    with running.catalog.read() as session:
        job = rows.get(session, running.id)
    run_on_finish(running.catalog.home, job)
    return 0 if job.state == "done" else 1


def work_with_retries(running: RunningJob) -> dict[str, Any]:
    """Do the work on the job's devices. Returns the result.

    If the disk is full, release the devices and wait for space. If memory runs out, halve the batch size. Then continue
    from the checkpoint.
    """
    spec = read_spec(running.job.kind, running.job.spec)
    while True:
        try:
            with ExitStack() as stack:
                hold_devices(running, stack)
                with running.catalog.write() as session:
                    rows.mark_running(session, running.id, running.owner)
                return work(running, spec)
        except Exception as error:
            disk_is_full = is_disk_full(error)
            if running.stopping or not (
                disk_is_full or (_is_out_of_memory(error) and limits.PROCESS_LIMIT.halve())
            ):
                raise
            _log_traceback()
        # Outside of the except clause, because the error refers to a model in memory.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if disk_is_full:
            cost = estimate_cost(running.catalog, spec, running.job.device)
            wait_for_space(running, max(_MIN_SPACE, cost.disk if cost else 0))
        else:
            print(_HALVED, file=sys.stderr)
            with running.catalog.write() as session:
                rows.mark_waiting(session, running.id, running.owner, _HALVED)
        running.reload()


def work(running: RunningJob, spec: Spec) -> dict[str, Any]:
    """Check the cost, then call the function of `runs` for this kind of job."""
    cost = estimate_cost(running.catalog, spec, running.job.device)
    if cost is not None:
        for warning in cost.warnings:
            print(warning, file=sys.stderr)
        if spec.kind != "trace":  # its bound is several times what it writes
            running.check_space(cost.disk)
    module, _, function = RUNS[spec.kind].partition(":")
    run = getattr(importlib.import_module(f"..runs.{module}", __package__), function)
    result: dict[str, Any] = run(running, spec)
    return result


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)


def _log_traceback() -> None:
    with suppress(OSError):  # the log may be on the full disk
        traceback.print_exc()


def _fail(running: RunningJob, error: str, kind: Literal["input", "failure"]) -> None:
    with running.catalog.write() as session:
        rows.fail(session, running.id, running.owner, error, kind)


def _describe_failure(error: Exception) -> str:
    """The cause of a failure in one sentence."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, CatalogError | EndpointError):
        return first
    if _is_out_of_memory(error):
        return f"out of memory on this device; free memory, or choose a smaller model or dtype ({first})"
    return f"{type(error).__name__}: {first}; see the traceback in the job's log"


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
