"""The words of the `:` prompt: command names, and how a line is split."""

import shlex

from .....store.errors import InputError
from ....command_table import COMMANDS


def command_words() -> list[str]:
    """The nouns of the command line, without `ui`: the app is open already."""
    return [name for name in COMMANDS if name != "ui"]


def split(text: str) -> list[str]:
    """Split a line as a shell does, and remove a leading `retcon`.

    Raises:
        InputError: a quote is not closed, or the command starts the app, which is already running.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"not a valid command line: {error}") from error
    if words[:1] == ["retcon"]:
        words = words[1:]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words[:1] == ["ui"] and "--help" not in words:
        raise InputError("the app is open already: type a tab, e.g. edits, or edits/4021943b39")
    return words
