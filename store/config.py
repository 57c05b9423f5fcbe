"""`config.toml` in the home folder: what a person sets once. No file is the same as an empty one."""

import tomllib
from dataclasses import dataclass, fields

from .errors import InputError
from .home import Home

FILE = "config.toml"


@dataclass(frozen=True)
class Config:
    """`on_finish` is a shell command that is given each job that ended, as JSON on its stdin."""

    on_finish: str | None = None


def read_config(home: Home) -> Config:
    """What the home's file sets.

    Raises:
        InputError: no TOML, a setting that there is not, or one that is no text; names the file.
    """
    path = home.root / FILE
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    known = [field.name for field in fields(Config)]
    for name, value in found.items():
        if name not in known:
            raise InputError(f"{path} sets {name!r}; what can be set is {', '.join(known)}")
        if not isinstance(value, str):
            raise InputError(f"{name} in {path} is {value!r}, which is no text")
    return Config(**found)
