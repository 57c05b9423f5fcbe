"""What the science refuses, in one sentence for the person who asked."""


class InputError(Exception):
    """What was asked for cannot be done with this input; the message says what to change."""


class UnsupportedModel(InputError):
    """The model has no matrix that an edit could rewrite, or its structure was not understood."""


class Stopped(Exception):
    """Raised out of a progress report when the work is to stop here: a person asked for it, or this box goes down."""


class EndpointFailed(Exception):
    """A language model that was asked failed although what was asked of it was right: trying again later may help."""
