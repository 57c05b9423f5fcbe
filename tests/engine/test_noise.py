"""How much noise, and the published draw of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from retcon.engine.decoder import Decoder
from retcon.engine.errors import InputError
from retcon.engine.noise import NoiseRule, draw
from transformers import PreTrainedTokenizerBase


@pytest.mark.parametrize(
    ("text", "factor", "relative"),
    [("3s", 3, True), ("0.4", 0.4, False), (" .5s ", 0.5, True), ("2", 2, False)],
)
def test_rules_are_read(text: str, factor: float, relative: bool) -> None:
    assert NoiseRule.parse(text) == NoiseRule(factor, relative)


@pytest.mark.parametrize("text", ["", "s", "3x", "-1", "0", "0s", "0.0", "1e3", "nan", "inf", "3 s"])
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(InputError, match="noise"):
        NoiseRule.parse(text)


def test_the_draw_is_the_published_one() -> None:
    expected = np.random.RandomState(5).randn(3, 2, 8) * 0.7
    drawn = draw(3, 2, 8, 0.7, 5)
    assert drawn.dtype == torch.float32
    np.testing.assert_allclose(drawn.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_relative_level_is_of_what_the_embedding_puts_out(
    family: str, decoder_of: Callable[[str], Decoder], words_after_start: PreTrainedTokenizerBase
) -> None:
    """Of all tokens of the distinct subjects together, start tokens too; Gemma's module scales its weight."""
    decoder, subjects = decoder_of(family), ["Paris", "The Eiffel Tower", "Paris"]
    ids = [i for subject in ("Paris", "The Eiffel Tower") for i in words_after_start(subject)["input_ids"]]
    scale = 32**0.5 if family == "gemma2" else 1.0
    outputs = decoder.embedding.weight[ids] * scale
    level = NoiseRule.parse("3s").level(decoder, words_after_start, subjects)
    assert level == pytest.approx(3 * outputs.std().item(), rel=1e-4)
    assert NoiseRule.parse("0.25").level(decoder, words_after_start, subjects) == 0.25
