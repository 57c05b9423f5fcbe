"""Files that a user names: written whole or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import CatalogError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make the file under a temporary name beside `path`, and rename it: a kill leaves no half file.

    Raises:
        CatalogError: it cannot be written; an older file of that name stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise CatalogError(
            f"{path} could not be written ({error.strerror or error}): see its folder and disk."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
