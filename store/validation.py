"""Checks of data that comes from outside: field types for pydantic, and its errors as one sentence."""

from datetime import datetime
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from .catalog.artifacts import SHA256
from .catalog.connection import MAX_INTEGER

_MAX_SHOWN = 100


def _parse_time(text: Any) -> datetime:
    if not isinstance(text, str) or (time := datetime.fromisoformat(text)).tzinfo is None:
        raise ValueError("expected an ISO time with a time zone")
    return time


def _check_time(text: str) -> str:
    _parse_time(text)
    return text


Text = Annotated[str, Field(min_length=1)]
Digest = Annotated[str, Field(pattern=f"^{SHA256.pattern}$")]
RevisionId = Annotated[str, Field(pattern="^[0-9a-f]{10}$")]
# Strict: "5", 5.0 and true are not whole numbers.
Integer = Annotated[int, Field(strict=True, ge=-MAX_INTEGER, le=MAX_INTEGER)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
# An ISO time with a time zone: as a datetime, and as its text.
Moment = Annotated[datetime, BeforeValidator(_parse_time)]
Time = Annotated[str, AfterValidator(_check_time)]
Number = Annotated[float, Field(strict=True)]


class Request(TypedDict):
    """A request as a revision stores it, with any further fields."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    subject: str
    prompt: str
    target_new: str
    target_true: NotRequired[str | None]


class CurvePoint(TypedDict):
    """A point of the convergence of a covariance."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    tokens: Integer
    mean: Number
    largest: Number


def describe(error: ValidationError) -> str:
    """The first problem: the field, its value, and the expectation. Without line breaks, below 500 characters."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))[:_MAX_SHOWN]
    if first["type"] == "missing":
        return f"field {field!r} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown field {field!r}"
    message = first["msg"].removeprefix("Value error, ").splitlines()[0][:_MAX_SHOWN]
    message = message[0].lower() + message[1:]
    return f"field {field!r} is {repr(first['input'])[:_MAX_SHOWN]}: {message}" if field else message


def rename_fields(record: Any, names: dict[str, str]) -> Any:
    """The record under the current names of its fields. `names` maps former names to current ones."""
    if not isinstance(record, dict):
        return record
    return {names.get(name, name): value for name, value in record.items()}


# Former names of the fields of a request, in files of earlier versions.
_REQUEST_NAMES = {"wordings": "train_paraphrases", "paraphrases": "eval_paraphrases"}


def rename_requests(requests: Any) -> Any:
    """Requests under the current names of their fields."""
    if not isinstance(requests, list):
        return requests
    return [rename_fields(request, _REQUEST_NAMES) for request in requests]
