"""Prompt templates: texts with one `{}` in place of the subject."""

import re

from .errors import InputError

SLOT = "{}"


def fill_prompt(template: str, subject: str) -> str:
    """The prompt with the subject in place of `{}`. A prompt without `{}` is returned as it is."""
    return template.replace(SLOT, subject)


def make_template(prompt: str, subject: str) -> str:
    """The prompt with `{}` in place of its subject. A prompt that contains `{}` is returned as it is.

    An occurrence of the subject as whole words has priority over one inside another word. Raises InputError.

        make_template("The Eiffel Tower is in", "Eiffel Tower")  # "The {} is in"
    """
    if not subject.strip():
        raise InputError("the subject is empty: give the words of the prompt that the fact is about.")
    if not prompt.strip():
        raise InputError("the prompt is empty: give a text with {} in place of the subject.")
    template = prompt
    if SLOT not in prompt:
        whole = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
        begin = whole.start() if whole else prompt.find(subject)
        if begin < 0:
            case = " (upper and lower case differ)" if subject.casefold() in prompt.casefold() else ""
            raise InputError(
                f"the subject {subject!r} is not in the prompt {prompt!r}{case}: check the spelling, or write {{}} in "
                "its place."
            )
        template = f"{prompt[:begin]}{SLOT}{prompt[begin + len(subject) :]}"
    if template.count(SLOT) > 1:
        raise InputError(f"the prompt {prompt!r} contains {{}} more than once: the subject has one place.")
    if has_other_braces(template):
        raise InputError(f"the prompt {prompt!r} contains a brace other than {{}}: remove it.")
    return template


def has_other_braces(template: str) -> bool:
    """Whether a template contains braces besides `{}`."""
    return re.search(r"[{}]", template.replace(SLOT, "")) is not None


def clean_target(target: str, name: str = "target") -> str:
    """The object of a fact without surrounding space (tokenization adds the space before it).

    Raises InputError if nothing is left.
    """
    cleaned = target.strip()
    if not cleaned:
        raise InputError(f"{name} is empty: give the object as it follows the prompt, or leave it out.")
    return cleaned
