"""Leases: which processes are storing artifacts. Garbage collection keeps files whose rows are not yet committed.

A lease is a file that its process locks; the kernel releases the lock at the end of the process. The time of the file
is the time of the first stored artifact. Unreferenced files that are older than every live lease can be deleted.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

# File times come from the kernel's coarse clock, which is some milliseconds late.
_CLOCK_SECONDS = 1.0
_LOCK_TIMEOUT_SECONDS = 1.0
_LOCK = "lock"


class Leases:
    """The leases of one artifact store, and the lock that separates storing from removing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lease: tuple[Path, int] | None = None
        self._mutex = Lock()

    def take(self) -> None:
        """Hold a lease until `end` or the end of this process. Does nothing if there is one."""
        with self._mutex:
            if self._lease is not None:
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / uuid.uuid4().hex
            # Create and lock under the shared lock: an unlocked lease counts as that of a dead process.
            with self.shared():
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._lease = path, descriptor

    def end(self) -> None:
        """Release the lease."""
        with self._mutex:
            if self._lease is not None:
                path, descriptor = self._lease
                self._lease = None
                path.unlink(missing_ok=True)
                os.close(descriptor)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the shared lock, to store files or to read all of them. No process can remove files meanwhile."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Hold the exclusive lock, to remove files. Yields False if another process reads all files (a backup)."""
        descriptor = self._open()
        try:
            yield _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def cutoff(self, now: float, grace: float) -> float | None:
        """Files older than this time are covered by no lease. None if another process reads all artifacts.

        Deletes the leases of dead processes.
        """
        oldest = now - max(grace, _CLOCK_SECONDS)
        with self.exclusive() as is_exclusive:
            if not is_exclusive:
                return None
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    oldest = min(oldest, self._start_time(path))
        return oldest

    def _start_time(self, path: Path) -> float:
        """When a live process took this lease; infinity if its process is dead."""
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                return os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)
        return float("inf")

    def _open(self) -> int:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    """Lock exclusively. Waits for writers, which hold the lock for milliseconds, but not for a backup."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOCK_TIMEOUT_SECONDS / 100)
        else:
            return True
