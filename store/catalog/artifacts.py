"""Large files by content: each is named by its sha256, and is complete or absent.

A file is written under a temporary name, hashed, synced and renamed. The row that names it is committed later. So no
row names an incomplete file, and a kill leaves only temporary files.

A process that stores files holds a lease until it ends, because their rows are committed later. Garbage collection
keeps all files that are younger than the oldest live lease. See `leases`.
"""

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic_files import sync_path, unlink_older
from ..errors import ArtifactCorrupt, CatalogError
from .leases import Leases
from .tables import Artifact

if TYPE_CHECKING:
    import numpy as np

SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"


def sha256_of(path: Path) -> str:
    """The sha256 of a file in 64 hex digits; about 1.3 s per GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class CorruptArtifact:
    """An artifact whose bytes do not have the digest that is its name, and the problem in words."""

    sha256: str
    path: Path
    problem: str
    # Inode and modification time in ns of the checked file; None if it is missing or unreadable.
    file_id: tuple[int, int] | None


class ArtifactStore:
    """The artifacts in one folder. Several processes may write the same artifact at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = Leases(root / "leases")

    def put_bytes(self, data: bytes) -> Artifact:
        """Store `data`; see `put_writer`."""
        return self.put_writer(lambda path: path.write_bytes(data))

    def put_file(self, source: Path) -> Artifact:
        """Store a copy of `source`; see `put_writer`."""
        # copyfile, not copy: the mode stays 0600.
        return self.put_writer(lambda path: shutil.copyfile(source, path))

    def put_tensors(self, arrays: Mapping[str, "np.ndarray"]) -> Artifact:
        """Store arrays as one safetensors file; equal arrays give equal digests. See `put_writer`."""
        import numpy as np
        from safetensors.numpy import save_file

        # safetensors writes the buffer in its memory order, which must be C order.
        ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return self.put_writer(lambda path: save_file(ordered, path))

    def put_writer(self, write: Callable[[Path], object]) -> Artifact:
        """Store the file that `write(path)` writes.

        The file is on the disk when this returns. The caller saves the returned row with `session.merge`, in the same
        transaction as the row that names it. Storing an existing artifact replaces its file, which repairs a corrupt
        one. Raises CatalogError if the disk is full; no file remains then.
        """
        partial = self.root / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            if not self.root.is_dir():
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_path(self.root.parent)
            self.leases.take()
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            write(partial)
            partial.chmod(0o600)
            digest, size = sha256_of(partial), partial.stat().st_size
            sync_path(partial)
            target = self.locate(digest)
            with self.leases.shared():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                partial.replace(target)
            sync_path(target.parent)
            sync_path(self.root)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if _is_disk_full(error):
                raise CatalogError(
                    f"The disk that holds {self.root} is full; nothing was stored: free some space first."
                ) from error
            raise
        return Artifact(sha256=digest, size=size)

    def path(self, sha256: str) -> Path:
        """The path of an artifact, after its bytes were hashed. Raises ArtifactCorrupt if it is missing or changed."""
        if corrupt := self.verify(sha256):
            raise ArtifactCorrupt(
                f"Artifact {sha256} at {corrupt.path} {corrupt.problem}: restore that file from a backup, or recreate "
                "the row that it belongs to."
            )
        return self.locate(sha256)

    def verify(self, sha256: str) -> CorruptArtifact | None:
        """The problem of an artifact, or None. Reads every byte."""
        path = self.locate(sha256)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                file_id = (status.st_ino, status.st_mtime_ns)
                try:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                except OSError as error:
                    return CorruptArtifact(sha256, path, f"cannot be read ({error.strerror})", file_id)
        except FileNotFoundError:
            return CorruptArtifact(sha256, path, "is missing", None)
        except OSError as error:
            return CorruptArtifact(sha256, path, f"cannot be opened ({error.strerror})", None)
        if digest == sha256:
            return None
        return CorruptArtifact(
            sha256, path, f"has changed: its {status.st_size} bytes hash to {digest[:12]}...", file_id
        )

    def quarantine(self, corrupt: CorruptArtifact, folder: Path) -> Path | None:
        """Move a corrupt file into a folder of the same disk. Returns None if the file was replaced since its check."""
        with self.leases.exclusive() as is_exclusive:
            try:
                status = corrupt.path.stat()
            except OSError:
                return None
            if not is_exclusive or (status.st_ino, status.st_mtime_ns) != corrupt.file_id:
                return None
            folder.mkdir(mode=0o700, exist_ok=True)
            target = folder / f"{corrupt.sha256}.{status.st_ino}"
            corrupt.path.rename(target)
        sync_path(folder)
        sync_path(corrupt.path.parent)
        return target

    def size(self, sha256: str) -> int:
        """The size of an artifact's file in bytes, not verified; 0 if it is missing."""
        try:
            return self.locate(sha256).stat().st_size
        except OSError:
            return 0

    def read_bytes(self, sha256: str) -> bytes:
        """The bytes of an artifact, verified. Raises ArtifactCorrupt."""
        return self.path(sha256).read_bytes()

    def read_arrays(self, sha256: str) -> dict[str, "np.ndarray"]:
        """The arrays of a safetensors artifact, verified. NumPy has no bfloat16: read such files from `path`."""
        from safetensors.numpy import load_file

        arrays: dict[str, np.ndarray] = load_file(self.path(sha256))
        return arrays

    def digests(self) -> Iterator[str]:
        """The digests of all files, not verified."""
        for path in self.root.glob("??/*"):
            if SHA256.fullmatch(path.name):
                yield path.name

    def remove(self, sha256: str, stored_before: float = float("inf")) -> int:
        """Delete an unreferenced artifact. Returns its bytes, or 0 if it is younger than `stored_before` or in use.

        `stored_before` is `Leases.cutoff` if another process may store the same bytes now.
        """
        with self.leases.exclusive() as is_exclusive:
            return unlink_older(self.locate(sha256), stored_before) if is_exclusive else 0

    def partial_files(self) -> list[Path]:
        """The temporary files of live and of killed writers."""
        # All hidden files, not only ours: safetensors writes to its own temporary name beside the given one.
        return [path for path in self.root.glob(".*") if path.is_file()]

    def close(self) -> None:
        """End the lease. The rows of all stored files must be committed."""
        self.leases.end()

    def locate(self, sha256: str) -> Path:
        """The path for a digest; the file is not checked. Raises ArtifactCorrupt for an invalid digest."""
        # A digest may come from an imported row: an invalid one must not become a path.
        if not SHA256.fullmatch(sha256):
            raise ArtifactCorrupt(
                f"{sha256[:80]!r} is not a sha256 (64 hex digits): the row that names it is corrupt."
            )
        return self.root / sha256[:2] / sha256


def _is_disk_full(error: BaseException) -> bool:
    # safetensors reports the error of the system only as text.
    return any(
        getattr(error, "errno", None) == code or f"os error {code}" in str(error)
        for code in (errno.ENOSPC, errno.EDQUOT)
    )
