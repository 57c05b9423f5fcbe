"""A local model as a chat."""

import copy
from typing import Literal

import pytest
import torch
from pydantic import BaseModel
from transformers import LlamaConfig, LlamaForCausalLM

from retcon.engine.errors import InputError
from retcon.engine.passages.extraction.chat import (
    Message,
    UnusableReply,
    build_schema,
    find_json,
    request_json,
)
from retcon.engine.passages.extraction.local import LocalChat
from retcon.tests.helpers.families import CONFIGS, tiny_model
from retcon.tests.helpers.tiny_tokenizers import byte_tokenizer, word_tokenizer

# A second thread does not pay for matrices of 32 x 56.
torch.set_num_threads(1)

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{{ m.content }} {% endfor %}{% if add_generation_prompt %}Therefore{% endif %}"
)


class City(BaseModel):
    city: str


@pytest.fixture
def chatty() -> LocalChat:
    tokenizer = type(word_tokenizer())(tokenizer_object=word_tokenizer().backend_tokenizer, eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    return LocalChat("tiny", tiny_model("llama"), tokenizer)


def test_chat_template_and_usage(chatty: LocalChat) -> None:
    reply = chatty.chat([Message("system", "The city"), Message("user", "of France")], None, 7)
    # "The city of France Therefore": the system message is part of the user turn.
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cut, reply.data) == (5, 7, True, None)
    again = chatty.chat([Message("user", "The city of France")], None, 7)
    assert again.text == reply.text


def test_reply_without_json(chatty: LocalChat) -> None:
    with pytest.raises(
        UnusableReply, match=r"tiny was sent the request city twice.* Try a larger model"
    ) as failed:
        request_json(chatty, "", "you", City, max_tokens=8)
    assert str(failed.value).isprintable()


class Place(BaseModel):
    capital: bool
    kind: Literal["city", "village"]


@pytest.fixture
def bytewise() -> LocalChat:
    """A random model with byte tokens. Without constraint its replies are not JSON."""
    torch.manual_seed(3)
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = TEMPLATE
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
    config = LlamaConfig(**CONFIGS["llama"].to_dict() | size)
    return LocalChat("bytes", LlamaForCausalLM(config).eval(), tokenizer)


def test_reply_follows_the_schema(bytewise: LocalChat) -> None:
    place = request_json(bytewise, "", "Paris?", Place, max_tokens=90)
    assert place.kind in ("city", "village")
    freely = bytewise.chat([Message("user", "Paris?")], None, 90)
    assert find_json(freely.text) is None
    reply = bytewise.chat([Message("user", "Paris?")], build_schema(Place), 8)
    assert (reply.completion_tokens, reply.cut, reply.data) == (8, True, None)


def test_too_long_request_and_missing_template(chatty: LocalChat) -> None:
    with pytest.raises(InputError, match="The request to tiny has 301 tokens, and its context window is 128"):
        chatty.chat([Message("user", "city " * 300)], None, 7)
    with pytest.raises(InputError, match="plain has no chat template"):
        LocalChat("plain", tiny_model("llama"), word_tokenizer())
