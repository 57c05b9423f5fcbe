"""Fixtures of the engine's tests: decoders of tiny models, and word tokenizers."""

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.tests.helpers.families import tiny_model
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer

# A second thread does not speed up matrices of 32 x 56.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def decoder_of() -> Callable[[str], Decoder]:
    """family -> its float32 decoder, shared by all tests. Do not change its weights."""
    decoders: dict[str, Decoder] = {}

    def decoder(family: str) -> Decoder:
        if family not in decoders:
            model = tiny_model(family)
            decoders[family] = Decoder(model, find_anatomy(model))
        return decoders[family]

    return decoder


@pytest.fixture
def own_decoder_of(decoder_of: Callable[[str], Decoder]) -> Callable[..., Decoder]:
    """(family, dtype) -> a decoder with its own copy of the model. Tests may change its weights."""

    def decoder(family: str, dtype: torch.dtype = torch.float32) -> Decoder:
        return Decoder(copy.deepcopy(tiny_model(family)).to(dtype), decoder_of(family).anatomy)

    return decoder


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerBase:
    """One token per word, no start token."""
    return word_tokenizer()


@pytest.fixture(scope="session")
def words_after_start() -> PreTrainedTokenizerBase:
    """One token per word, after a start token."""
    return word_tokenizer(start=True)
