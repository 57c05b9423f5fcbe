"""Errors of the science. Each message is one sentence: the fault and its remedy."""

from ..errors import InputError

__all__ = ["EndpointError", "InputError", "StopRequested", "UnsupportedModel"]


class UnsupportedModel(InputError):
    """The model has no matrix that an edit can rewrite, or its structure is unknown."""


class StopRequested(Exception):
    """Raised by a progress report to stop the work: the user canceled the job, or the machine shuts down."""


class EndpointError(Exception):
    """The endpoint of a language model failed on a valid request. A later attempt may succeed."""
