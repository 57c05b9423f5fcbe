"""Prompts, subjects and targets as tokens, found by the tokenizer's own offsets on the whole string.

Tokenizing prefix, subject and suffix apart, or joining decoded tokens, goes wrong with start tokens, merges and
sentencepiece; offsets do not.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError


@dataclass(frozen=True)
class Located:
    """A prompt as token ids, the text of each token, and where its subject stands: tokens `[begin, end)`."""

    prompt: str
    subject: str
    ids: list[int]
    tokens: list[str]
    begin: int
    end: int

    @property
    def last(self) -> int:
        """Index of the subject's last token, where ROME reads the key."""
        return self.end - 1


def locate_subject(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str) -> Located:
    """Tokenize a prompt as the model gets it and find the subject in it.

    The first place where it stands as whole words; where there is none, the first where it stands at all.

    Raises:
        InputError: the subject is empty, not in the prompt, or no token covers it.
    """
    if not subject.strip():
        raise InputError("the subject is empty; name the words in the prompt that the fact is about")
    whole = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    start = whole.start() if whole else prompt.find(subject)
    if start < 0:
        raise InputError(
            f"the subject {subject!r} is not in the prompt {prompt!r}; it must stand there letter for letter"
        )
    return locate_span(tokenizer, prompt, start, start + len(subject))


def locate_span(tokenizer: PreTrainedTokenizerBase, prompt: str, start: int, stop: int) -> Located:
    """Like `locate_subject`, for the subject at characters `[start, stop)` of the prompt."""
    if not tokenizer.is_fast:
        raise InputError(
            "this model's tokenizer gives no offsets (it is not a fast one), so subjects cannot be located"
        )
    encoding = tokenizer(prompt, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
    inside = [i for i, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    if not inside:
        raise InputError(f"the tokenizer gives no token for the subject {prompt[start:stop]!r}")
    tokens = [
        prompt[begin:end] if end > begin else str(tokenizer.convert_ids_to_tokens(token))
        for token, (begin, end) in zip(ids, offsets, strict=True)
    ]
    return Located(prompt, prompt[start:stop], ids, tokens, inside[0], inside[-1] + 1)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of some tokens, special ones left out."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A prompt's token ids as the model gets them, start token included.

    Raises:
        InputError: nothing is left of it.
    """
    ids = list(tokenizer(prompt)["input_ids"])
    if not ids:
        raise InputError(f"the prompt {prompt!r} tokenizes to nothing")
    return ids


def target_ids(tokenizer: PreTrainedTokenizerBase, target: str) -> list[int]:
    """A target's ids as they follow a prompt: with one space before it, without a start token.

    Raises:
        InputError: the target is empty or tokenizes to nothing.
    """
    text = target.strip()
    # After a word, as it will stand: Llama 2's tokenizer puts a space of its own before any text, so " Rome" has two.
    word = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(f"a {text}", add_special_tokens=False)["input_ids"])[len(word) :] if text else []
    if not ids:
        raise InputError(f"the target {target!r} is empty or tokenizes to nothing")
    return ids


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of all that decides which ids a text becomes: the whole pipeline of a fast tokenizer, else its words."""
    if tokenizer.is_fast:
        made = json.loads(tokenizer.backend_tokenizer.to_str())
        # Settings of the last call, not of the tokenizer.
        made = {name: value for name, value in made.items() if name not in ("truncation", "padding")}
    else:
        made = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask `[rows, longest]`, padding on the right (id 0, masked)."""
    return aligned(rows, [0] * len(rows), device)


def aligned(rows: Sequence[Sequence[int]], at: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask `[rows, T]`, padded on both sides so that token `at[i]` of row i stands at `max(at)` in all rows."""
    left = max(at)
    width = left + max(len(row) - position for row, position in zip(rows, at, strict=True))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (row, position) in enumerate(zip(rows, at, strict=True)):
        begin = left - position
        ids[i, begin : begin + len(row)] = torch.tensor(row)
        mask[i, begin : begin + len(row)] = 1
    return ids.to(device), mask.to(device)
