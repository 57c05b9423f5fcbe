"""Holding a model of this machine to a JSON schema while it speaks: of each next token, only what the schema allows."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from .chat import Schema

# A small model that loops would fill a string or a list to its last token: no reply of a step is longer than this.
_LONGEST_STRING, _LONGEST_LIST = 400, 24
# As most JSON is written on one line; a schema by itself allows spaces without end.
_SPACING = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


class Grammars:
    """What a tokenizer's tokens spell, made once, for all schemas; `can` is False where that could not be found out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
        import llguidance.hf

        self._tokens: Any = None
        known: Any = tokenizer  # its types name one class of fast tokenizers only
        try:
            self._tokens = llguidance.hf.from_tokenizer(known, n_vocab=vocabulary)
        except (
            Exception
        ):  # whatever its readers stumble over in a tokenizer that is no byte-level or sentencepiece one
            return

    @property
    def can(self) -> bool:
        return self._tokens is not None

    def follow(self, schema: Schema, prompt: int, ends: Sequence[int]) -> "FollowsSchema":
        """A processor for one reply to a prompt of so many tokens; `ends` are the model's end tokens."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(_bounded(schema.json) | _SPACING))
        return FollowsSchema(LLMatcher(self._tokens, grammar), prompt, ends)


class FollowsSchema(LogitsProcessor):
    """For one row: what the schema does not allow gets a score of minus infinity; a reply that satisfies it can end."""

    def __init__(self, matcher: Any, prompt: int, ends: Sequence[int]) -> None:
        self._matcher, self._read, self._ends = matcher, prompt, list(ends)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids[0, self._read :].tolist()
        self._read += len(new)
        self._matcher.consume_tokens(new)
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        if self._matcher.is_stopped() or self._matcher.is_error():
            allowed[0, self._ends] = True
        else:
            bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
            allowed[0, : len(bias)] = (bias[: scores.shape[1]] > 0).to(scores.device)
            if self._matcher.is_accepting():
                allowed[0, self._ends] = True
        return scores.masked_fill(~allowed, float("-inf"))


def _bounded(schema: Any) -> Any:
    """The schema with bounds on what a reply could grow without end."""
    if isinstance(schema, list):
        return [_bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _bounded(value) for key, value in schema.items()}
    if schema.get("type") == "string" and "enum" not in schema:
        made["maxLength"] = _LONGEST_STRING
    if schema.get("type") == "array":
        made["maxItems"] = _LONGEST_LIST
    return made
