"""Kernel file locks show which processes are alive: the kernel releases a lock however its process ends.

A pid does not show that: a dead child of a living parent keeps its pid, and pids are reused.
"""

import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ...store.home import Home


def job_lock_path(home: Home, job_id: int) -> Path:
    """Held from the moment that the job's row exists: by the process that starts the worker, then by the worker."""
    return home.locks / f"job-{job_id}.lock"


def device_lock_path(home: Home, device: str) -> Path:
    """Held by the one job that runs on a device, whichever user of this machine submitted it.

    Creates the file if it is missing. Where no shared folder is usable, only the jobs of this home exclude each other.
    """
    name = f"device-{device.replace(':', '-')}.lock"
    shared = shared_lock_folder() / f"retcon-{name}"
    return shared if _is_shared(shared) else home.locks / name


def shared_lock_folder() -> Path:
    """The folder of the device locks that all users of this machine share: `$RETCON_LOCKS`, /run/lock or /tmp."""
    if folder := os.environ.get("RETCON_LOCKS", ""):
        return Path(folder).expanduser().absolute()
    default = Path("/run/lock")
    world_writable = stat.S_ISVTX | stat.S_IWOTH
    is_usable = default.is_dir() and default.stat().st_mode & world_writable == world_writable
    return default if is_usable else Path("/tmp")


def _is_shared(path: Path) -> bool:
    """Whether the path is a lock file that every user can open. Creates it if it is missing."""
    try:
        status = path.lstat() if os.path.lexists(path) else _create_for_all(path)
        # Another user could plant a link and so choose which file this process opens and locks.
        return stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)
    except OSError:
        return False


def _create_for_all(path: Path) -> os.stat_result:
    """Create a file that all users can read, which suffices for a lock. No process sees it with another mode."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.fchmod(descriptor, 0o644)
        path.hardlink_to(temporary)
    except FileExistsError:  # another process was faster
        pass
    finally:
        os.close(descriptor)
        temporary.unlink()
    return path.lstat()


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Take a lock if it is free and hold it until the block ends. Yields whether the lock is held."""
    with ExitStack() as stack:
        has_lock = False
        with suppress(BlockingIOError):
            stack.enter_context(hold_lock(path, patience=0.0))
            has_lock = True
        yield has_lock


@contextmanager
def hold_lock(path: Path, patience: float = 1.0) -> Iterator[int]:
    """Hold a lock and yield its descriptor, which can be passed to a child process.

    Retries for `patience` seconds, because `is_locked` takes the lock for a moment. The lock lasts until the last
    process that has the descriptor has ended.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    descriptor = _open(path)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(patience / 50)
        yield descriptor
    finally:
        os.close(descriptor)


def is_descriptor_of(descriptor: int, path: Path) -> bool:
    """Whether an inherited descriptor refers to the file at this path."""
    try:
        inherited, file = os.fstat(descriptor), path.stat()
    except OSError:
        return False
    return (inherited.st_dev, inherited.st_ino) == (file.st_dev, file.st_ino)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock, so that two processes that check at the same time do not see each other as the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    # O_CLOEXEC: a child process of a killed worker must not keep the lock.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # Linux refuses O_CREAT for another user's file in a world-writable folder with the sticky bit.
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o600)
