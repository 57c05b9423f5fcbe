"""What may be typed after `:`, and which of it only reads."""

import shlex
from collections.abc import Sequence

from .....store.errors import InputError

_READING = frozenset({"list", "show", "locate", "log", "watch"})
# What makes of a command that reads one that writes.
_WRITING_OPTION = "--save"
_READING_ALONE = frozenset({"history", "diff", "doctor", "--version", "--help", "-h", "help"})


def command_words() -> list[str]:
    """The nouns of the command line; the app itself, once more inside itself, is none of them."""
    # Not at the top: it loads click, which the app does without until then.
    from ....cli.main import COMMANDS

    return [name for name in COMMANDS if name != "ui"]


def split(text: str) -> list[str]:
    """The words, as a shell would take them; a `retcon` before them is left out.

    Raises:
        InputError: a quote is not closed, or it would open the app inside the app.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"this is no command line: {error}") from error
    if words[:1] == ["retcon"]:
        words = words[1:]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words[:1] == ["ui"] and "--help" not in words:
        raise InputError("the app is open already: type a tab, e.g. edits, or edits/4021943b39")
    return words


def reads_only(words: Sequence[str]) -> bool:
    """Whether a command changes nothing."""
    if "--help" in words:
        return True
    reading = words[0] in _READING_ALONE or (len(words) > 1 and words[1] in _READING)
    return reading and _WRITING_OPTION not in words
