"""The process of one job: `python -m retcon.engine.jobs.worker ID`.

It holds the job's lock for its whole life, claims the row, waits for its device, and only then imports torch.
Whatever happens ends in one of the row's states, with the reason in one sentence; a traceback goes to the log.
"""

import errno
import importlib
import os
import signal
import sys
import time
import traceback
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...store import jobs as rows
from ...store.catalog import Catalog
from ...store.errors import CatalogError, LostOwnership
from ...store.errors import InputError as CatalogInputError
from ..errors import Cancelled, InputError
from .locks import device_lock, job_lock, try_lock
from .preflight import cost_of
from .running import Running
from .specs import SPECS

_POLL_SECONDS = 0.3
# Far longer than anybody who looks whether a job lives holds its lock.
_LOOK_SECONDS = 1.0


def main(job_id: int) -> int:
    """Run one job; the exit status is 0 if it is done."""
    os.umask(0o077)
    catalog = Catalog.open(migrate=False)
    owner = uuid.uuid4().hex
    with ExitStack() as alive:
        if not _hold(job_lock(catalog.home, job_id), alive):
            return 1
        with catalog.write() as session:
            if not rows.claim(session, job_id, owner, os.getpid()):
                return 1
            job = rows.get(session, job_id)
        running = Running(catalog, job, owner)
        signal.signal(signal.SIGTERM, lambda *_: setattr(running, "stop_asked", True))
        return _run(running)


def _hold(path: Path, stack: ExitStack) -> bool:
    """Hold a lock until the stack ends; False if another process keeps it. Who only looks has it for a moment."""
    until = time.monotonic() + _LOOK_SECONDS
    while not _take(path, stack):
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_SECONDS / 50)
    return True


def _take(path: Path, stack: ExitStack) -> bool:
    """Hold a lock until the stack ends, if it is free; if not, nothing stays open."""
    with ExitStack() as attempt:
        if attempt.enter_context(try_lock(path)):
            stack.enter_context(attempt.pop_all())
            return True
    return False


def _run(running: Running) -> int:
    try:
        with ExitStack() as stack:
            _wait_for_device(running, stack)
            with running.catalog.write() as session:
                rows.start(session, running.id, running.owner)
            made = running.made or _work(running)
        with running.catalog.write(durable=True) as session:
            rows.finish(session, running.id, running.owner, made)
    except LostOwnership as error:
        print(error, file=sys.stderr)
    except Cancelled:
        with running.catalog.write() as session:
            rows.cancelled(session, running.id, running.owner)
    except (InputError, CatalogInputError) as error:
        _fail(running, str(error), "input")
    except Exception as error:
        traceback.print_exc()
        _fail(running, _sentence(error), "failure")
    else:
        return 0
    return 1


def _work(running: Running) -> dict[str, Any]:
    spec = SPECS[running.job.kind](**running.job.spec)
    cost = cost_of(running.catalog, spec, running.job.device)
    if cost is not None:
        for warning in cost.warnings:
            print(warning, file=sys.stderr)
        if spec.kind != "trace":  # of which little is known: its bound is several times what it writes
            running.check_room(cost.disk)
    run = importlib.import_module(f".runs.{running.job.kind}", __package__).run
    made: dict[str, Any] = run(running, spec)
    return made


def _fail(running: Running, error: str, kind: str) -> None:
    with running.catalog.write() as session:
        rows.fail(session, running.id, running.owner, error, kind)  # type: ignore[arg-type]


def _sentence(error: Exception) -> str:
    """Why a job failed, for a person."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, CatalogError):
        return first
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in first:
        return f"the disk is full; free some space and resume the job ({first})"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory on this device; free it, or choose a smaller model or dtype ({first})"
    return f"{type(error).__name__}: {first}; the job's log has the traceback"


def _wait_for_device(running: Running, stack: ExitStack) -> None:
    """Hold the device's lock from here on; first come, first served is the kernel's order, not promised."""
    path = device_lock(running.catalog.home, running.job.device)
    while not _take(path, stack):
        running.say(f"waiting for {running.job.device}, which another job holds")
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
