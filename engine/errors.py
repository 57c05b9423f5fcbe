"""Errors of the science. Each message is one sentence: the fault and its remedy."""

from ..errors import InputError

__all__ = ["EndpointError", "InputError", "StopRequested", "UnsupportedModel", "first_line"]


class UnsupportedModel(InputError):
    """The model has no matrix that an edit can rewrite, or its structure is unknown."""


class StopRequested(Exception):
    """Raised by a progress report to stop the work: the user canceled the job, or the machine shuts down."""


class EndpointError(Exception):
    """The endpoint of a language model failed on a valid request. A later attempt may succeed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
