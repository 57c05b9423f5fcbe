"""Atomic writes: after a kill, a full disk or a power cut, a file is complete or absent."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import CatalogError, InputError


def check_new_file(path: Path) -> None:
    """Raise InputError unless a file of the user can be created at `path`."""
    if path.exists():
        raise InputError(f"{path} exists already: give another name.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.absolute().parent}.")


def write_atomically(path: Path, write: Callable[[Path], object], *, private: bool = False) -> None:
    """Call `write(temporary)`, sync the file, and rename it to `path`.

    A `private` file has mode 0600; otherwise the umask decides. Raises CatalogError if the file cannot be written; an
    existing file of that name stays.
    """
    # An unpredictable name: other users may place links in a shared folder.
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        if private:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        write(partial)
        sync_path(partial)
        partial.replace(path)
        sync_path(path.parent)
    except OSError as error:
        raise CatalogError(
            f"{path} cannot be written ({error.strerror or error}): check its folder and disk."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Wait until the bytes of a file, or the entries of a folder, are on the disk.

    Without it, a rename may reach the disk before the bytes. A rename is an entry of its folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink_older(path: Path, before: float) -> int:
    """Delete a file if its last write is before a time, in seconds since the epoch.

    Returns the size of the deleted file in bytes, or 0 if the file is newer or missing."""
    try:
        found = path.lstat()
        if found.st_mtime >= before:
            return 0
        path.unlink()
    except FileNotFoundError:  # another process removed it
        return 0
    return found.st_size
