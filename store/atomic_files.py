"""Files that are whole or not there, whatever cuts in: a kill, a full disk, or the power."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import CatalogError


def write_atomically(path: Path, write: Callable[[Path], object], *, private: bool = False) -> None:
    """Have `write` make the file under a temporary name beside `path`, and rename it when it is on the disk.

    A `private` file is readable by its user alone; the mode of others follows the umask.

    Raises:
        CatalogError: it cannot be written; an older file of that name stays.
    """
    # A name that nobody can foresee: the folder may be one where others lay links.
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        if private:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        write(partial)
        sync_file(partial)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise CatalogError(
            f"{path} could not be written ({error.strerror or error}): see its folder and disk."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until what was written to a file is on the disk: a rename may get there before the bytes do."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a rename is there only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink_older(path: Path, before: float) -> int:
    """Delete a file that was last written before a time; its bytes, or 0 if it is younger or gone."""
    try:
        found = path.lstat()
        if found.st_mtime >= before:
            return 0
        path.unlink()
    except FileNotFoundError:  # another process removed it
        return 0
    return found.st_size
