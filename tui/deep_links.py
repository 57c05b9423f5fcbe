"""Deep links: `edits/4021943b39` is a row of a pane, `jobs` a pane."""

from dataclasses import dataclass

from ..store.errors import InputError

NOUNS = ("models", "traces", "covariances", "edits", "jobs", "passages")


@dataclass(frozen=True)
class DeepLink:
    """A pane, and a row of it if one is meant. A model may be named instead of numbered."""

    noun: str
    key: str = ""


def parse_deep_link(text: str) -> DeepLink:
    """A place as a person writes it. Raises InputError."""
    noun, _, key = text.strip().partition("/")
    found = [one for one in NOUNS if noun and one.startswith(noun.lower())]
    if len(found) != 1:
        raise InputError(
            f"there is no place {text!r} in the app: write one of {', '.join(NOUNS)}, or e.g. jobs/12"
        )
    if key and found[0] in ("traces", "covariances", "jobs", "passages") and not key.isdecimal():
        raise InputError(f"{key!r} is no number of one of the {found[0]}: write e.g. {found[0]}/12")
    return DeepLink(found[0], key)
