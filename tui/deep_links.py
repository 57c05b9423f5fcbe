"""Deep links into the app: `jobs` names a pane, `edits/4021943b39` a row of a pane."""

from dataclasses import dataclass

from ..store.errors import InputError

NOUNS = ("models", "traces", "covariances", "edits", "jobs", "passages")


@dataclass(frozen=True)
class DeepLink:
    """A pane, and optionally one of its rows. The key of a model may be its name or its number."""

    noun: str
    key: str = ""


def parse_deep_link(text: str) -> DeepLink:
    """Parse a deep link. The noun can be shortened. Raises InputError."""
    noun, _, key = text.strip().partition("/")
    matches = [one for one in NOUNS if noun and one.startswith(noun.lower())]
    if len(matches) != 1:
        raise InputError(
            f"{text!r} is not a place in the app: write one of {', '.join(NOUNS)}, or e.g. jobs/12"
        )
    if key and matches[0] in ("traces", "covariances", "jobs", "passages") and not key.isdecimal():
        raise InputError(f"{key!r} is not a number: write e.g. {matches[0]}/12")
    return DeepLink(matches[0], key)
