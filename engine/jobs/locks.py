"""Kernel file locks: who holds one is alive. The kernel lets go of it whatever kills the process.

A pid cannot tell: a killed child of a living parent still answers, and pids come round again.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...store.home import Home


def job_lock(home: Home, job_id: int) -> Path:
    """Held for a job from the moment that its row is there: by who starts its process, then by that until it ends."""
    return home.locks / f"job-{job_id}.lock"


def device_lock(home: Home, device: str) -> Path:
    """Held by the one job that works on a device."""
    return home.locks / f"device-{device.replace(':', '-')}.lock"


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Take a lock if it is free, and hold it until the end of the block. Yields whether it was taken."""
    # Not inherited by programs that this process starts, so that a helper of a killed worker does not hold it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, patience: float = 1.0) -> Iterator[int]:
    """Hold a lock for a program that is to be started with it: yields the descriptor to hand over.

    Who only looks whether it is held has it for a moment, so it is tried for `patience` seconds. The lock lasts until
    the last process that has the descriptor is gone.

    Raises:
        BlockingIOError: another process keeps it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
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
