"""A model on this machine as a `Chat`, greedy and in its own chat template.

Its reply is held to the schema token by token, where its tokenizer's tokens can be spelt; else the JSON is picked out
of what it says. A small model's JSON may still be cut off, or say nothing of use.
"""

import time
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import InputError
from ...model.generation import continue_prompt, find_end_tokens
from .chat import Message, Reply, Schema, json_in
from .constrained import FollowsSchema, Grammars

_LEAST_ROOM = 16
_LIKELY_LONGEST = 2048


class LocalChat:
    """A loaded model that was trained to chat. Raises InputError if its tokenizer has no chat template."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"{name} has no chat template, so it was not trained to follow instructions: choose a chat model of "
                "this machine, or an endpoint (RETCON_LLM_URL)"
            )
        self.name = name
        self._model, self._tokenizer = model, tokenizer
        self._ends = sorted(find_end_tokens(model, tokenizer))
        self._grammars: Grammars | None = None

    def chat(self, messages: Sequence[Message], schema: Schema | None, max_tokens: int) -> Reply:
        begun = time.monotonic()
        prompt = self._prompt(messages)
        room = self._longest() - len(prompt)
        if room < _LEAST_ROOM:
            raise InputError(
                f"{self.name} reads at most {self._longest()} tokens and was to read {len(prompt)}: give it a shorter "
                "text, or choose a model with a longer context"
            )
        processor = self._held_to(schema, len(prompt)) if schema else None
        said = continue_prompt(self._model, self._tokenizer, prompt, min(max_tokens, room), processor)
        return Reply(
            said.text,
            json_in(said.text) if schema else None,
            len(prompt),
            said.tokens,
            time.monotonic() - begun,
            cut=not said.ended,
        )

    def _held_to(self, schema: Schema, prompt: int) -> FollowsSchema | None:
        if self._grammars is None:
            self._grammars = Grammars(self._tokenizer, self._model.get_output_embeddings().weight.shape[0])
        return (
            self._grammars.follow(schema, prompt, self._ends) if self._grammars.can and self._ends else None
        )

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        turns = [{"role": one.role, "content": one.content} for one in messages]
        try:
            text = self._template(turns)
        except Exception as error:
            # Some templates (Gemma's) refuse a system turn: its words go before those of the person.
            if len(turns) < 2 or turns[0]["role"] != "system":
                raise InputError(f"the chat template of {self.name} fails: {error}") from error
            first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
            text = self._template([first, *turns[2:]])
        # The template writes the start token itself.
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _template(self, turns: list[dict[str, str]]) -> str:
        made: Any = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return str(made)

    def _longest(self) -> int:
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", _LIKELY_LONGEST))
