"""Text matching for free generation. Imports no torch."""

import re

from ...passage_facts import normalize


def begins_with(completion: str, target: str) -> bool:
    """Whether a completion begins with the target as whole words. Case and spacing are ignored."""
    text, prefix = normalize(completion), normalize(target)
    return text.startswith(prefix) and not text[len(prefix) :][:1].isalnum()


def contains_phrase(text: str, phrase: str, *, ignore_punctuation: bool = False) -> bool:
    """Whether a text contains a phrase as whole words. Case and spacing are ignored."""
    if ignore_punctuation:
        text, phrase = ("".join(c if c.isalnum() else " " for c in one) for one in (text, phrase))
    return re.search(rf"(?<!\w){re.escape(normalize(phrase))}(?!\w)", normalize(text)) is not None
