"""Large files by content: each lies under its own sha256, whole or not at all.

A file is written under a temporary name, hashed, flushed to the disk, renamed. So a row that names an
artifact (which is committed after) never points at half a file, and a kill leaves only temporary files.

Whoever stores holds a lease from its first file to its end, for the rows that name its files come later: what was
stored since the oldest living lease began is nobody's to remove. See `store.leases`.
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

from ..atomic_files import sync_file, sync_folder, unlink_older
from ..errors import ArtifactCorrupt, CatalogError
from .leases import Leases
from .tables import Artifact

if TYPE_CHECKING:
    import numpy as np

SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"


def sha256_of(path: Path) -> str:
    """The sha256 of a file in 64 hex digits; about 1.3 s a GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class CorruptArtifact:
    """An artifact that is not what its name says: why, and which file that was when it was looked at."""

    sha256: str
    path: Path
    problem: str
    # inode and time in ns; None if there is no file, or it may not be read.
    seen: tuple[int, int] | None


class ArtifactStore:
    """The artifact files under one folder. Any number of processes may write the same artifact at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leases = Leases(root / "leases")

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
        partial = self.root / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            if not self.root.is_dir():
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(self.root.parent)
            self.leases.take()
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            write(partial)
            partial.chmod(0o600)
            digest, size = sha256_of(partial), partial.stat().st_size
            sync_file(partial)
            target = self.locate(digest)
            with self.leases.shared():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                partial.replace(target)
            sync_folder(target.parent)
            sync_folder(self.root)
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

        Raises ArtifactCorrupt if it is missing, short or changed.
        """
        path = self.locate(sha256)
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ArtifactCorrupt(
                f"Artifact {sha256} is not at {path} ({error.strerror}): restore that file from a backup, "
                "or make again what it belongs to."
            ) from error
        if found != sha256:
            raise ArtifactCorrupt(
                f"Artifact {sha256} at {path} has changed, its bytes now hash to {found[:12]}...: "
                "restore that file from a backup, or make again what it belongs to."
            )
        return path

    def verify(self, sha256: str) -> CorruptArtifact | None:
        """What is wrong with an artifact, None if nothing. Reads every byte."""
        path = self.locate(sha256)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_ino, found.st_mtime_ns)
                try:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                except OSError as error:
                    return CorruptArtifact(sha256, path, f"cannot be read ({error.strerror})", seen)
        except FileNotFoundError:
            return CorruptArtifact(sha256, path, "is missing", None)
        except OSError as error:
            return CorruptArtifact(sha256, path, f"cannot be opened ({error.strerror})", None)
        if digest == sha256:
            return None
        return CorruptArtifact(
            sha256, path, f"has changed: its {found.st_size} bytes hash to {digest[:12]}...", seen
        )

    def quarantine(self, hurt: CorruptArtifact, folder: Path) -> Path | None:
        """Move a hurt file into a folder of the same disk; None if it was replaced since it was looked at."""
        with self.leases.exclusive() as alone:
            try:
                found = hurt.path.stat()
            except OSError:
                return None
            if not alone or (found.st_ino, found.st_mtime_ns) != hurt.seen:
                return None
            folder.mkdir(mode=0o700, exist_ok=True)
            target = folder / f"{hurt.sha256}.{found.st_ino}"
            hurt.path.rename(target)
        sync_folder(folder)
        sync_folder(hurt.path.parent)
        return target

    def size(self, sha256: str) -> int:
        """The bytes of an artifact's file, not verified; 0 where there is none."""
        try:
            return self.locate(sha256).stat().st_size
        except OSError:
            return 0

    def read_bytes(self, sha256: str) -> bytes:
        """The bytes of an artifact, verified. Raises ArtifactCorrupt."""
        return self.path(sha256).read_bytes()

    def read_arrays(self, sha256: str) -> dict[str, "np.ndarray"]:
        """The arrays of a safetensors artifact, verified. Not bfloat16, which NumPy lacks: see `path`."""
        from safetensors.numpy import load_file

        arrays: dict[str, np.ndarray] = load_file(self.path(sha256))
        return arrays

    def digests(self) -> Iterator[str]:
        """The digest of every file that is there; not verified."""
        for path in self.root.glob("??/*"):
            if SHA256.fullmatch(path.name):
                yield path.name

    def remove(self, sha256: str, stored_before: float = float("inf")) -> int:
        """Delete an artifact that no row names; its bytes, or 0 if it was stored again, or somebody reads them all.

        Who cannot know whether another process stores the same bytes gives a time, see `Leases.cutoff`.
        """
        with self.leases.exclusive() as alone:
            return unlink_older(self.locate(sha256), stored_before) if alone else 0

    def partial_files(self) -> list[Path]:
        """The temporary files of writers that live, and of those that were killed."""
        # Not by our prefix: safetensors writes under a temporary name of its own beside the one it is given.
        return [path for path in self.root.glob(".*") if path.is_file()]

    def close(self) -> None:
        """End the lease: every row that names what was stored is committed."""
        self.leases.end()

    def locate(self, sha256: str) -> Path:
        """Where an artifact lies or would lie; nothing is looked at. Raises ArtifactCorrupt for what is no digest."""
        # A digest may come from an imported row: one that is none must not become a path.
        if not SHA256.fullmatch(sha256):
            raise ArtifactCorrupt(
                f"{sha256[:80]!r} is not a sha256 (64 hex digits): the row that names it is damaged."
            )
        return self.root / sha256[:2] / sha256


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _copy(source: Path, target: Path) -> None:
    # copyfile, not copy: the mode stays 0600.
    shutil.copyfile(source, target)


def _disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors writes in Rust and gives the system's error only as text.
    return f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)
