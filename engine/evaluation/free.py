"""What counts as an answer in free generation, where no target is shown and its length leaks nothing."""

import re


def begins_with(completion: str, target: str) -> bool:
    """Whether a completion begins with the target as whole words, whatever the case and spacing."""
    said, wanted = _normal(completion), _normal(target)
    rest = said[len(wanted) :]
    return said.startswith(wanted) and not rest[:1].isalnum()


def holds(text: str, target: str) -> bool:
    """Whether a text holds the target as whole words, whatever the case and spacing."""
    return re.search(rf"(?<!\w){re.escape(_normal(target))}(?!\w)", _normal(text)) is not None


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
