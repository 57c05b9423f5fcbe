"""Parse paths and model sources that a person types."""

from pathlib import Path

from ..store.errors import InputError


def expand_path(text: str) -> Path:
    """Replace `~` at the beginning of a path.

    Raises:
        InputError: the user of `~user` does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text.partition('/')[0]} has no home folder: write the full path") from error


def path_exists(path: Path) -> bool:
    """Whether a file or folder exists. Raises InputError if it cannot be read."""
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def model_source(text: str) -> str:
    """The source of a model for a job: an existing folder or file as a full path, any other text unchanged.

    Raises:
        InputError: the user of `~user` does not exist, or the path cannot be read.
    """
    # An empty path would be the current folder, and `starter` is not a folder.
    if text in ("", "starter"):
        return text
    path = expand_path(text)
    return str(path.resolve()) if path_exists(path) else text
