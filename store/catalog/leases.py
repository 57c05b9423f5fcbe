"""Who stores artifacts now: so that a collection takes nothing whose row is still to come.

A lease is a file that its process locks; the kernel lets go of it whatever ends the process. Its time is when the
process stored its first file. What is older than every living lease, and named by no row, is nobody's.
"""

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

# Timestamps of files come from the kernel's coarse clock, some milliseconds behind.
_CLOCK_SECONDS = 1.0
_PATIENCE_SECONDS = 1.0
_LOCK = "lock"


class Leases:
    """The leases of one artifact store, and the lock that keeps storing and removing apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: tuple[Path, int] | None = None
        self._taking = Lock()

    def take(self) -> None:
        """Hold a lease from now until `end` or the end of this process. Once held, does nothing."""
        with self._taking:
            if self._own is not None:
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / uuid.uuid4().hex
            # Together with the lock: between the two it would look like a dead process's.
            with self.shared():
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._own = path, descriptor

    def end(self) -> None:
        """Give the lease back."""
        with self._taking:
            if self._own is not None:
                path, descriptor = self._own
                self._own = None
                path.unlink(missing_ok=True)
                os.close(descriptor)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While a file is put to its place, or all are read: any number of processes, but nobody removes."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """While a file is removed: nobody puts one to its place. Yields False where one reads them all (a backup)."""
        descriptor = self._open()
        try:
            yield _locked_alone(descriptor)
        finally:
            os.close(descriptor)

    def cutoff(self, now: float, grace: float) -> float | None:
        """What was stored before this time needs no lease; None where somebody reads all artifacts now.

        Forgets the leases of dead processes.
        """
        oldest = now - max(grace, _CLOCK_SECONDS)
        with self.exclusive() as alone:
            if not alone:
                return None
            for path in self.folder.iterdir():
                if path.name != _LOCK:
                    oldest = min(oldest, self._began(path))
        return oldest

    def _began(self, path: Path) -> float:
        """When a living process took this lease; for ever later if it is dead."""
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


def _locked_alone(descriptor: int) -> bool:
    """Lock it, waiting for those who put a file to its place, which takes no time; not for one who reads all."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_PATIENCE_SECONDS / 100)
        else:
            return True
