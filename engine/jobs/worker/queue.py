"""The queue of each device: by priority, then first come first served, with one kernel lock per device."""

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
_SPACE_POLL_SECONDS = 5.0


def hold_devices(running: RunningJob, stack: ExitStack) -> None:
    """Wait for the job's devices and hold their locks until the stack closes.

    Raises:
        StopRequested: a stop was requested meanwhile.
    """
    while True:
        if (earlier := _find_earlier_job(running)) is not None:
            running.report_activity(f"waiting for {running.job.device}, after job {earlier}")
        elif _take_all(running, stack):
            return
        else:
            running.report_activity(f"waiting for {running.job.device}, in use by another job")
        time.sleep(_POLL_SECONDS)


def _find_earlier_job(running: RunningJob) -> int | None:
    """The first job in the queue before this one that waits for one of the same devices."""
    devices = set(split_devices(running.job.device))
    with running.catalog.read() as session:
        queue = rows.list_queue(session)
    for job in queue:
        if job.id == running.id:
            return None
        if devices & set(split_devices(job.device)) and is_alive(running.catalog.home, job):
            return job.id
    return None


def _take_all(running: RunningJob, stack: ExitStack) -> bool:
    """Take all devices or none, so that a job never blocks a device that it cannot use yet."""
    with ExitStack() as attempt:
        for device in sorted(split_devices(running.job.device)):
            if not attempt.enter_context(try_lock(device_lock_path(running.catalog.home, device))):
                return False
        stack.enter_context(attempt.pop_all())
    return True


def wait_for_space(running: RunningJob, size: int) -> None:
    """Wait until the home's disk has `size` free bytes. Other jobs can use the devices meanwhile.

    Raises:
        StopRequested: a stop was requested meanwhile.
    """
    root = running.catalog.home.root
    activity = f"waiting: the disk of {root} is full; {size / 1e6:.0f} MB are needed to continue"
    while True:
        try:
            with running.catalog.write() as session:
                rows.mark_waiting(session, running.id, running.owner, activity)
        except Exception as error:  # the catalog may have no space for the activity either
            if not is_disk_full(error):
                raise
        else:
            if has_space(root, size):
                return
        running.reload()
        if running.job.stop_request is not None:
            raise StopRequested
        time.sleep(_SPACE_POLL_SECONDS)


def has_space(folder: Path, size: int) -> bool:
    """Whether `size` bytes can be allocated. Allocates them, because free-space figures do not include quotas."""
    path = folder / f".room-{os.getpid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in _DISK_FULL:
            return False
        raise
    finally:
        os.close(descriptor)
        path.unlink()
    return True


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a full disk. Some libraries report it only in the message."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if "No space left on device" in str(error) or "database or disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
