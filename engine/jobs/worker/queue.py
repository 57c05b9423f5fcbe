"""A job's way to its devices: first come, first served within a priority; a kernel lock for each device."""

import errno
import os
import time
from contextlib import ExitStack
from pathlib import Path

from ....store import jobs as rows
from ...errors import StopRequested
from ..control import is_alive
from ..devices import split_devices
from ..locks import device_lock_path, try_lock
from .running import RunningJob

_POLL_SECONDS = 0.3
_ROOM_SECONDS = 5.0


def hold_devices(running: RunningJob, stack: ExitStack) -> None:
    """Hold the locks of the job's devices until the stack ends. Raises `StopRequested` if asked to stop."""
    while True:
        if (before := _before(running)) is not None:
            running.report_activity(f"waiting for {running.job.device}, after job {before}")
        elif _take_all(running, stack):
            return
        else:
            running.report_activity(f"waiting for {running.job.device}, which another job holds")
        time.sleep(_POLL_SECONDS)


def _before(running: RunningJob) -> int | None:
    """The job that is served before this one and wants one of its devices, if there is one."""
    wanted = set(split_devices(running.job.device))
    with running.catalog.read() as session:
        line = rows.list_queue(session)
    for job in line:
        if job.id == running.id:
            return None
        if wanted & set(split_devices(job.device)) and is_alive(running.catalog.home, job):
            return job.id
    return None


def _take_all(running: RunningJob, stack: ExitStack) -> bool:
    """All of the devices or none: who held one and waited for another would keep it from those who need just that."""
    with ExitStack() as attempt:
        for part in sorted(split_devices(running.job.device)):
            if not _take(device_lock_path(running.catalog.home, part), attempt):
                return False
        stack.enter_context(attempt.pop_all())
    return True


def _take(path: Path, stack: ExitStack) -> bool:
    """Hold a lock until the stack ends, if it is free; if not, nothing stays open."""
    with ExitStack() as attempt:
        if attempt.enter_context(try_lock(path)):
            stack.enter_context(attempt.pop_all())
            return True
    return False


def wait_for_space(running: RunningJob, size: int) -> None:
    """Wait until the home's disk has room for `size` bytes. Raises `StopRequested` if asked to stop.

    The catalog itself may have no room to say so; whatever else waits for the device is served meanwhile.
    """
    said = (
        f"waiting: the disk of {running.catalog.home.root} is full; {size / 1e6:.0f} MB are needed to go on"
    )
    while True:
        try:
            with running.catalog.write() as session:
                rows.mark_waiting(session, running.id, running.owner, said)
        except Exception as error:
            if not is_disk_full(error):
                raise
        else:
            if _has_room(running.catalog.home.root, size):
                return
        running.reload()
        if running.job.stop_request is not None:
            raise StopRequested
        time.sleep(_ROOM_SECONDS)


def _has_room(folder: Path, size: int) -> bool:
    """Whether `size` bytes can be written; asked for, not read off, since a quota shows in no figure."""
    path = folder / f".room-{os.getpid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in _FULL:
            return False
        raise
    finally:
        os.close(descriptor)
        path.unlink()
    return True


_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the disk is full. Some writers only say it in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if "No space left on device" in str(error) or "database or disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
