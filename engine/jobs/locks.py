"""Kernel file locks: who holds one is alive. The kernel lets go of it whatever kills the process.

A pid cannot tell: a killed child of a living parent still answers, and pids come round again.
"""

import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...store.home import Home


def job_lock(home: Home, job_id: int) -> Path:
    """Held for a job from the moment that its row is there: by who starts its process, then by that until it ends."""
    return home.locks / f"job-{job_id}.lock"


def device_lock(home: Home, device: str) -> Path:
    """Held by the one job that works on a device, whichever user of this box it belongs to.

    The file is made if it is missing. Where no folder is shared, the jobs of this home still exclude each other.
    """
    name = f"device-{device.replace(':', '-')}.lock"
    shared = shared_locks() / f"retcon-{name}"
    return shared if _is_shared(shared) else home.locks / name


def shared_locks() -> Path:
    """The folder of the device locks that all users of this box see: `$RETCON_LOCKS`, /run/lock or /tmp."""
    if given := os.environ.get("RETCON_LOCKS", ""):
        return Path(given).expanduser().absolute()
    usual = Path("/run/lock")
    anyone = stat.S_ISVTX | stat.S_IWOTH
    return usual if usual.is_dir() and usual.stat().st_mode & anyone == anyone else Path("/tmp")


def _is_shared(path: Path) -> bool:
    """Whether a lock file lies there that everybody can open; it is made if there is none."""
    try:
        found = path.lstat() if os.path.lexists(path) else _made_for_all(path)
        # A link could make us open, and so lock, a file that somebody else chose.
        return stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK)
    except OSError:
        return False


def _made_for_all(path: Path) -> os.stat_result:
    """Make a file that all may read, which is all that a lock needs; nobody ever sees it with another mode."""
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.fchmod(descriptor, 0o644)
        path.hardlink_to(fresh)
    except FileExistsError:  # another process was first
        pass
    finally:
        os.close(descriptor)
        fresh.unlink()
    return path.lstat()


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Take a lock if it is free, and hold it until the end of the block. Yields whether it was taken."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path, patience=0.0))
            taken = True
        except BlockingIOError:
            taken = False
        yield taken


@contextmanager
def held(path: Path, patience: float = 1.0) -> Iterator[int]:
    """Hold a lock for a program that is to be started with it: yields the descriptor to hand over.

    Who only looks whether it is held has it for a moment, so it is tried for `patience` seconds. The lock lasts until
    the last process that has the descriptor is gone.

    Raises:
        BlockingIOError: another process keeps it.
    """
    descriptor = _open(path)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(patience / 50)
        yield descriptor
    finally:
        os.close(descriptor)


def is_handed(descriptor: int, path: Path) -> bool:
    """Whether a descriptor that this program was started with is that of the lock."""
    try:
        handed, own = os.fstat(descriptor), path.stat()
    except OSError:
        return False
    return (handed.st_dev, handed.st_ino) == (own.st_dev, own.st_ino)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that those who look do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    # Not inherited by programs that this process starts, so that a helper of a killed worker does not hold it.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # In a folder that all may write to, Linux refuses O_CREAT on a file that is another user's.
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o600)
