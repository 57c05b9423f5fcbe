"""What the engine's tests share: tiny models by family with their decoders, and tokenizers made on the spot.

Helpers that tests import by name (`families`, `oracles`, `tiny_tokenizers`, `untouched`) lie beside this file.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.tests.helpers.families import tiny_model
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer
from transformers import PreTrainedTokenizerBase

# Matrices of 32 x 56 are not worth a second thread.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def decoder_of() -> Callable[[str], Decoder]:
    """family -> its decoder, float32, made once. The model's weights are shared: leave them as they are."""
    made: dict[str, Decoder] = {}

    def decoder(family: str) -> Decoder:
        if family not in made:
            model = tiny_model(family)
            made[family] = Decoder(model, find_anatomy(model))
        return made[family]

    return decoder


@pytest.fixture
def own_decoder_of(decoder_of: Callable[[str], Decoder]) -> Callable[..., Decoder]:
    """(family, dtype) -> a decoder over a copy of the family's model, to be changed at will."""

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
