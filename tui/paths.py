"""Files and folders that a person names."""

from pathlib import Path

from ..store.errors import InputError


def path_of(text: str) -> Path:
    """The path that is meant, with `~` filled in.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"there is no home folder of {text.partition('/')[0]}: write the path out"
        ) from error


def is_there(path: Path) -> bool:
    """Whether there is something. Raises InputError where one may not look."""
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be looked at: {error.strerror}") from error


def model_source(text: str) -> str:
    """A model's source as a job takes it: a folder or file that is here in full, anything else as it stands.

    Raises:
        InputError: no such user, or one may not look there.
    """
    # Not "starter", which is no folder here, nor nothing, which would be the folder one stands in.
    if text in ("", "starter"):
        return text
    path = path_of(text)
    return str(path.resolve()) if is_there(path) else text
