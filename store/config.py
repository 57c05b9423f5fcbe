"""`config.toml` in the home folder: settings of the user. A missing file is the same as an empty one."""

import tomllib

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import InputError
from .home import Home
from .validation import describe

FILE = "config.toml"


class Config(BaseModel):
    """`on_finish` is a shell command; it gets each job that ended as JSON on its stdin."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    on_finish: str | None = None


def read_config(home: Home) -> Config:
    """The settings in the home's file. Raises InputError, with the file and the field, for an invalid file."""
    path = home.root / FILE
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Config()
    except ValidationError as error:
        fields = ", ".join(Config.model_fields)
        raise InputError(f"{path} is not valid: {describe(error)}. Possible fields: {fields}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
