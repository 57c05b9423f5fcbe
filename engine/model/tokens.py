"""Prompts, subjects, targets and chat turns as token ids.

A subject is located with the tokenizer's offsets of the whole prompt. Tokenizing the parts of a prompt separately gives
other ids where start tokens, merges or sentencepiece spaces cross the border of a part.
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

# Text of both turns of the chat from which `find_turn_end` reads the end of a reply.
_TURN_TEXT = "retcon"


@dataclass(frozen=True)
class LocatedPrompt:
    """A prompt as token ids, the text of each token, and its subject: tokens `[begin, end)`."""

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


def locate_subject(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str) -> LocatedPrompt:
    """Tokenize a prompt and find its subject: the first match at word boundaries, else the first match.

    Raises:
        InputError: the subject is empty or not in the prompt, or no token covers it.
    """
    if not subject.strip():
        raise InputError("the subject is empty; give the words of the prompt that the fact is about")
    whole_words = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    start = whole_words.start() if whole_words else prompt.find(subject)
    if start < 0:
        raise InputError(f"the subject {subject!r} is not in the prompt {prompt!r}; check its spelling")
    return locate_span(tokenizer, prompt, start, start + len(subject))


def locate_span(tokenizer: PreTrainedTokenizerBase, prompt: str, start: int, stop: int) -> LocatedPrompt:
    """Like `locate_subject`, for the subject at the characters `[start, stop)` of the prompt."""
    if not tokenizer.is_fast:
        raise InputError("subjects cannot be located: this model has no fast tokenizer, which gives offsets")
    encoding = tokenizer(prompt, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), list(encoding["offset_mapping"])
    inside = [i for i, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    if not inside:
        raise InputError(f"the subject {prompt[start:stop]!r} has no tokens in the prompt")
    tokens = [
        prompt[begin:end] if end > begin else str(tokenizer.convert_ids_to_tokens(token))
        for token, (begin, end) in zip(ids, offsets, strict=True)
    ]
    return LocatedPrompt(prompt, prompt[start:stop], ids, tokens, inside[0], inside[-1] + 1)


def decode_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt, with the start token if the model has one.

    Raises:
        InputError: the prompt has no tokens.
    """
    ids = list(tokenizer(prompt)["input_ids"])
    if not ids:
        raise InputError(f"the prompt {prompt!r} tokenizes to nothing")
    return ids


def encode_target(tokenizer: PreTrainedTokenizerBase, target: str) -> list[int]:
    """Token ids of a target after a prompt: with one space before it, without a start token.

    Raises:
        InputError: the target has no tokens.
    """
    text = target.strip()
    # Tokenized after a word: the tokenizer of Llama 2 adds a space before any text, so " Rome" alone gets two.
    word = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(f"a {text}", add_special_tokens=False)["input_ids"])[len(word) :] if text else []
    if not ids:
        raise InputError(f"the target {target!r} is empty or tokenizes to nothing")
    return ids


def encode_user_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a user turn up to the start of the reply. Requires a tokenizer with a chat template."""
    turns = [{"role": "user", "content": text}]
    chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(tokenizer(chat, add_special_tokens=False)["input_ids"])


def find_turn_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special token that the chat template writes after a reply, or []. Not each model lists it as an end token."""
    turns = [{"role": role, "content": _TURN_TEXT} for role in ("user", "assistant")]
    chat = str(tokenizer.apply_chat_template(turns, tokenize=False))
    after = tokenizer(chat.rpartition(_TURN_TEXT)[2].lstrip(), add_special_tokens=False)["input_ids"]
    return [token for token in after[:1] if token in tokenizer.added_tokens_decoder]


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of a fast tokenizer's whole pipeline, or of a slow tokenizer's class and vocabulary."""
    if tokenizer.is_fast:
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        # `truncation` and `padding` are settings of the last call, not of the tokenizer.
        content = {name: value for name, value in pipeline.items() if name not in ("truncation", "padding")}
    else:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask `[rows, longest]`, int64, padded on the right with id 0."""
    return pad_aligned(rows, [0] * len(rows), device)


def pad_aligned(
    rows: Sequence[Sequence[int]], at: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids and attention mask `[rows, T]`, int64, padded on both sides: token `at[i]` of row i moves to `max(at)`."""
    left = max(at)
    width = left + max(len(row) - position for row, position in zip(rows, at, strict=True))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (row, position) in enumerate(zip(rows, at, strict=True)):
        begin = left - position
        ids[i, begin : begin + len(row)] = torch.tensor(row)
        mask[i, begin : begin + len(row)] = 1
    return ids.to(device), mask.to(device)
