"""Large files by content: each lies under its own sha256, whole or not at all.

A file is written under a temporary name, hashed, flushed to the disk, renamed. So a row that names an
artifact (which is committed after) never points at half a file, and a kill leaves only temporary files.
"""

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ArtifactDamaged, CatalogError
from .tables import Artifact

if TYPE_CHECKING:
    import numpy as np

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"


def sha256_of(path: Path) -> str:
    """The sha256 of a file in 64 hex digits; about 1.3 s a GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArtifactStore:
    """The artifact files under one folder. Any number of processes may write the same artifact at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_bytes(self, data: bytes) -> Artifact:
        """Store `data`; see `put_writer`."""
        return self.put_writer(lambda path: _write(path, data))

    def put_file(self, source: Path) -> Artifact:
        """Store a copy of `source`; see `put_writer`."""
        return self.put_writer(lambda path: _copy(source, path))

    def put_tensors(self, arrays: Mapping[str, "np.ndarray"]) -> Artifact:
        """Store arrays as one safetensors file; equal arrays give equal digests. See `put_writer`."""
        import numpy as np
        from safetensors.numpy import save_file

        # safetensors writes the buffer as it lies in memory, so it must lie in order.
        ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return self.put_writer(lambda path: save_file(ordered, path))

    def put_writer(self, write: Callable[[Path], object]) -> Artifact:
        """Store what `write(path)` leaves at the path that it is given.

        The file is safe on the disk when this returns. The row is not saved: `session.merge` it in the same
        transaction as the row that names it. Storing what is there already replaces it with the same bytes,
        which mends a damaged one. Raises CatalogError if the disk is full; nothing is left behind.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.root / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            write(partial)
            partial.chmod(0o600)
            digest = sha256_of(partial)
            with partial.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                os.fsync(file.fileno())
            target = self._place(digest)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            partial.replace(target)
            _sync_folder(target.parent)
            _sync_folder(self.root)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if _disk_full(error):
                raise CatalogError(
                    f"The disk that holds {self.root} is full, nothing was stored: free some space first."
                ) from error
            raise
        return Artifact(sha256=digest, size=size)

    def path(self, sha256: str) -> Path:
        """Where the artifact lies, after its bytes were hashed again: no mode bit or time is trusted.

        Raises ArtifactDamaged if it is missing, short or changed.
        """
        path = self._place(sha256)
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ArtifactDamaged(
                f"Artifact {sha256} is not at {path} ({error.strerror}): restore that file from a backup, "
                "or make again what it belongs to."
            ) from error
        if found != sha256:
            raise ArtifactDamaged(
                f"Artifact {sha256} at {path} has changed, its bytes now hash to {found[:12]}...: "
                "restore that file from a backup, or make again what it belongs to."
            )
        return path

    def read_bytes(self, sha256: str) -> bytes:
        """The bytes of an artifact, verified. Raises ArtifactDamaged."""
        return self.path(sha256).read_bytes()

    def read_arrays(self, sha256: str) -> dict[str, "np.ndarray"]:
        """The arrays of a safetensors artifact, verified. Not bfloat16, which NumPy lacks: see `path`."""
        from safetensors.numpy import load_file

        arrays: dict[str, np.ndarray] = load_file(self.path(sha256))
        return arrays

    def digests(self) -> Iterator[str]:
        """The digest of every file that is there; not verified."""
        for path in self.root.glob("??/*"):
            if _DIGEST.fullmatch(path.name):
                yield path.name

    def remove(self, sha256: str, older_than: float = 0.0) -> int:
        """Delete an artifact that no row names, stored over `older_than` seconds ago; its bytes, or 0.

        Who cannot know whether another process stores the same bytes gives an age: young ones may be about to
        get their row.
        """
        path = self._place(sha256)
        trash = self.root / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            if time.time() - path.stat().st_mtime <= older_than:
                return 0
            path.rename(trash)
            found = trash.stat()
            if time.time() - found.st_mtime <= older_than:
                # Stored again after it was looked at: who did that relies on it.
                trash.rename(path)
                return 0
        except FileNotFoundError:  # another process removed it
            return 0
        trash.unlink(missing_ok=True)
        return found.st_size

    def sweep(self, older_than: float = 86400.0) -> int:
        """Delete what killed writers left, untouched for `older_than` seconds; returns how many files."""
        removed = 0
        # Not by our prefix: safetensors writes under a temporary name of its own beside the one it is given.
        for path in self.root.glob(".*"):
            try:
                if path.is_file() and time.time() - path.stat().st_mtime > older_than:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # renamed or swept by another process
                continue
        return removed

    def _place(self, sha256: str) -> Path:
        # A digest may come from an imported row: one that is none must not become a path.
        if not _DIGEST.fullmatch(sha256):
            raise ArtifactDamaged(
                f"{sha256[:80]!r} is not a sha256 (64 hex digits): the row that names it is damaged."
            )
        return self.root / sha256[:2] / sha256


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _copy(source: Path, target: Path) -> None:
    # copyfile, not copy: the mode stays 0600.
    shutil.copyfile(source, target)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors writes in Rust and gives the system's error only as text.
    return f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)
