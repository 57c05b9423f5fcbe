"""Another subject in the subject's place: the corruption that stays among inputs a model knows (Zhang & Nanda 2023)."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.tokens import Located, locate_span, locate_subject


def swapped_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str, other: str) -> list[int]:
    """Token ids of the prompt about the other subject.

    Raises:
        InputError: the other subject does not take as many tokens, or changes the tokens around it.
    """
    here = locate_subject(tokenizer, prompt, subject)
    there = _about(tokenizer, prompt, subject, other)
    if (there.begin, there.end, len(there.ids)) != (here.begin, here.end, len(here.ids)):
        raise InputError(
            f"{other!r} takes {there.end - there.begin} tokens and {subject!r} {here.end - here.begin}; "
            "a subject can be swapped only for one of as many"
        )
    if (there.ids[: here.begin], there.ids[here.end :]) != (here.ids[: here.begin], here.ids[here.end :]):
        raise InputError(f"{other!r} in the place of {subject!r} changes the tokens around it")
    return there.ids


def swaps_among(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[tuple[str, str, str | None]]
) -> dict[tuple[str, str], list[int]]:
    """For each (prompt, subject, answer) of a set, the ids with another subject of the set in its place.

    The next one of as many tokens whose own answer, where one is known, is another; a prompt for which there is none
    is left out.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for number, (prompt, subject, answer) in enumerate(prompts):
        for _, other, its_answer in (*prompts[number + 1 :], *prompts[:number]):
            if other == subject or (answer is not None and its_answer == answer):
                continue
            try:
                found[prompt, subject] = swapped_ids(tokenizer, prompt, subject, other)
            except InputError:
                continue
            break
    return found


def _about(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str, other: str) -> Located:
    start = prompt.index(subject)
    text = prompt[:start] + other + prompt[start + len(subject) :]
    return locate_span(tokenizer, text, start, start + len(other))
