"""A local model as a `Chat`: greedy decoding with the model's own chat template.

llguidance constrains the reply to the schema token by token, if it supports the tokenizer. Otherwise the JSON object is
searched in the reply. The JSON of a small model may still be cut off or useless.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ...errors import InputError
from ...model.generation import continue_prompt, find_end_tokens
from .chat import ChatReply, Message, ReplySchema, find_json

_MIN_REPLY_TOKENS = 16
_DEFAULT_CONTEXT = 2048
# A small model that loops would fill a string or a list up to the token limit. No step needs a longer reply.
_MAX_STRING, _MAX_ITEMS = 400, 24
# Write JSON on one line, as most JSON is. A plain schema allows unlimited white space.
_SPACING = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}


class LocalChat:
    """A loaded chat model. Raises InputError if its tokenizer has no chat template."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"{name} has no chat template, so it is not trained to follow instructions. Choose a local chat model, "
                "or an endpoint (RETCON_LLM_URL)."
            )
        self.name = name
        self._model, self._tokenizer = model, tokenizer
        self._ends = sorted(find_end_tokens(model, tokenizer))
        self._vocabulary = _load_vocabulary(tokenizer, model.get_output_embeddings().weight.shape[0])

    def chat(self, messages: Sequence[Message], schema: ReplySchema | None, max_tokens: int) -> ChatReply:
        prompt = self._encode(messages)
        room = self._context_length() - len(prompt)
        if room < _MIN_REPLY_TOKENS:
            raise InputError(
                f"The request to {self.name} has {len(prompt)} tokens, and its context window is "
                f"{self._context_length()} tokens. Use a shorter text, or a model with a longer context."
            )
        processor = self._build_processor(schema, len(prompt)) if schema else None
        reply = continue_prompt(self._model, self._tokenizer, prompt, min(max_tokens, room), processor)
        return ChatReply(
            reply.text,
            find_json(reply.text) if schema else None,
            len(prompt),
            reply.tokens,
            cut=not reply.ended,
        )

    def _build_processor(self, schema: ReplySchema, prompt_tokens: int) -> "SchemaProcessor | None":
        """The constraint for one reply. None if the tokenizer is not supported, or the model has no end token."""
        if self._vocabulary is None or not self._ends:
            return None
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(_bound(schema.json) | _SPACING))
        return SchemaProcessor(LLMatcher(self._vocabulary, grammar), prompt_tokens, self._ends)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": one.role, "content": one.content} for one in messages]
        try:
            text = self._apply_template(turns)
        except Exception as error:
            # Some templates (Gemma's) reject a system turn. Then its text goes into the user's turn.
            if len(turns) < 2 or turns[0]["role"] != "system":
                raise InputError(f"The chat template of {self.name} fails: {error}") from error
            first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
            text = self._apply_template([first, *turns[2:]])
        # The template writes the start token itself.
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _apply_template(self, turns: list[dict[str, str]]) -> str:
        text: Any = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(text)

    def _context_length(self) -> int:
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", _DEFAULT_CONTEXT))


class SchemaProcessor(LogitsProcessor):
    """For a batch of one: tokens that the schema does not allow get a score of minus infinity.

    End tokens are allowed once the reply satisfies the schema.
    """

    def __init__(self, matcher: Any, prompt_tokens: int, ends: Sequence[int]) -> None:
        self._matcher, self._consumed, self._ends = matcher, prompt_tokens, list(ends)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids[0, self._consumed :].tolist()
        self._consumed += len(new)
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


def _load_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Any:
    """llguidance's table of the tokenizer's tokens. None if it does not support the tokenizer."""
    import llguidance.hf

    fast: Any = tokenizer  # llguidance's annotation names only one class of fast tokenizers
    try:
        return llguidance.hf.from_tokenizer(fast, n_vocab=size)
    # llguidance raises various errors for tokenizers that are neither byte-level nor sentencepiece.
    except Exception:
        return None


def _bound(schema: Any) -> Any:
    """The schema with limits on the lengths of strings and lists."""
    if isinstance(schema, list):
        return [_bound(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    bounded = {key: _bound(value) for key, value in schema.items()}
    if schema.get("type") == "string" and "enum" not in schema:
        bounded["maxLength"] = _MAX_STRING
    if schema.get("type") == "array":
        bounded["maxItems"] = _MAX_ITEMS
    return bounded
