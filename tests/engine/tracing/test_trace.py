"""Scores equal the published loops, for every kind, window, corruption and noise rule."""

import copy
import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.tracing.corruption import Corruption, NoiseCorruption, SwapCorruption, swap_subject
from retcon.engine.tracing.noise import Noise, gaussian, multivariate, student, uniform
from retcon.engine.tracing.rules import KINDS, window_blocks
from retcon.tests.helpers.families import CONFIGS, FAMILIES, UNLIKE
from retcon.tests.helpers.oracles import adding, plain_trace
from retcon.tests.helpers.traces import (
    BEGIN,
    NOISE,
    OTHER,
    PROMPT,
    SUBJECT,
    WIDTH,
    Decoders,
    Tokenizer,
    assert_equals_plain,
    assert_scores,
    run_plain_trace,
    run_trace,
)
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_published_loops(family: str, decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of(family)
    before = bits_of(decoder.model)
    expected = run_plain_trace(decoder, words, 3, 10)
    for window in (3, 10):
        result = run_trace(decoder, words, window=window)
        assert result.answer == words.decode([expected.answer])
        assert_equals_plain(result, expected, window)
    for (kind, window), scores in expected.scores.items():
        if window != 10:  # a window of 10 restores all blocks, so all layers are equal
            deviation = torch.tensor(scores)[BEGIN:].std(1).max()
            assert deviation > 2e-5, f"{kind}: the scores of all layers are equal, so the test proves nothing"
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, before)


@pytest.mark.parametrize("family", ["gpt2", "falcon", "gemma3"])
@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_odd_and_even_windows_equal_published_loops(
    family: str, window: int, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    result = run_trace(decoder, words, window=window, kinds=("mlp", "attn"))
    assert_equals_plain(result, run_plain_trace(decoder, words, window, unwindowed=False), window)


@cache
def deep_decoder(family: str) -> Decoder:
    """A decoder of nine blocks, so that a window of five lies inside."""
    config = copy.deepcopy(CONFIGS[family])
    config.num_hidden_layers = 9
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * 3)[:9]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.12)
    return Decoder(model, find_anatomy(model))


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_windows_inside_deep_model_equal_published_loops(family: str, words: Tokenizer) -> None:
    decoder, prompt = deep_decoder(family), "in The Eiffel Tower is located"
    expected = run_plain_trace(decoder, words, 5, 10, prompt=prompt, unwindowed=False)
    for window in (5, 10):
        result = run_trace(decoder, words, prompt, window=window, kinds=("mlp", "attn"))
        assert_equals_plain(result, expected, window)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3"])
@pytest.mark.parametrize("prompt", ["The Eiffel Tower is located in the", "Paris in The Eiffel Tower"])
def test_subject_at_start_or_end_of_prompt(
    family: str, prompt: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    result = run_trace(decoder, words, prompt, window=2)
    assert_equals_plain(result, run_plain_trace(decoder, words, 2, prompt=prompt), 2)


def test_window_blocks() -> None:
    """[l - w/2, l + ceil(w/2)), cut at both ends."""
    assert [window_blocks(layer, 3, 4) for layer in range(4)] == [(0, 2), (0, 3), (1, 4), (2, 4)]
    assert [window_blocks(layer, 2, 4) for layer in range(4)] == [(0, 1), (0, 2), (1, 3), (2, 4)]
    assert [window_blocks(layer, 1, 3) for layer in range(3)] == [(0, 1), (1, 2), (2, 3)]
    assert window_blocks(15, 10, 48) == (10, 20)
    assert window_blocks(47, 10, 48) == (42, 48)
    assert window_blocks(2, 10, 48) == (0, 7)


def covariance() -> torch.Tensor:
    factors = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return factors @ factors.T / WIDTH * 0.05


MEAN = torch.linspace(-0.1, 0.2, WIDTH, dtype=torch.float64)
RULES: dict[str, Noise] = {
    "gaussian": gaussian(0.4),
    "uniform": uniform(0.5),
    "multivariate": multivariate(MEAN, covariance()),
    "student": student(MEAN, covariance(), 3),
}


def published_noise(rule: str, seed: int) -> np.ndarray:
    """Three samples of three tokens of a rule in `RULES`, by the published formulas."""
    random, size = np.random.RandomState(seed), (3, 3, WIDTH)
    if rule == "uniform":
        return random.uniform(-1, 1, size) * 0.5
    if rule == "gaussian":
        return random.randn(*size) * 0.4
    _, variances, directions = covariance().svd()
    colored = random.randn(*size) @ (directions * variances.sqrt()).T.numpy() + MEAN.numpy()
    if rule == "multivariate":
        return colored
    factors = np.sqrt((3 - 2) / np.random.RandomState(2).chisquare(df=3, size=1000))
    return colored * factors[:9].reshape(3, 3, 1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("replace", [False, True], ids=["added", "replaced"])
@pytest.mark.parametrize("rule", RULES)
def test_noise_rules_equal_published_loops(
    rule: str, replace: bool, family: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    corruption = NoiseCorruption(RULES[rule], 3, seed=4, replace=replace)
    result = run_trace(decoder, words, corruption=corruption, kinds=("hidden", "severed-attn"))
    corrupt = adding(published_noise(rule, 4), BEGIN, replace=replace)
    ids = words(PROMPT)["input_ids"]
    expected = plain_trace(
        decoder.model, decoder.anatomy, [ids] * 4, corrupt, [("hidden", 1), ("severed-attn", 1)]
    )
    assert_equals_plain(result, expected, 3)


def test_other_seed_draws_other_noise(decoder_of: Decoders, words: Tokenizer) -> None:
    one = run_trace(decoder_of("llama"), words)
    other = run_trace(decoder_of("llama"), words, corruption=dataclasses.replace(NOISE, seed=2))
    assert one.high == other.high
    assert abs(one.low - other.low) > 1e-6


@pytest.mark.parametrize("family", UNLIKE)
def test_swapped_subject_equals_published_loops(family: str, decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of(family)
    swapped = swap_subject(words, PROMPT, SUBJECT, OTHER)
    result = run_trace(decoder, words, corruption=SwapCorruption({(PROMPT, SUBJECT): swapped}))
    kinds = [(kind, 3 if kind in ("mlp", "attn") else 1) for kind in KINDS]
    rows = [words(PROMPT)["input_ids"], words(PROMPT.replace(SUBJECT, OTHER))["input_ids"]]
    expected = plain_trace(decoder.model, decoder.anatomy, rows, None, kinds)
    assert_equals_plain(result, expected, 3)
    assert abs(result.high - result.low) > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "falcon", "bloom"])
def test_half_precision_is_close_to_float32(
    family: str, dtype: torch.dtype, own_decoder_of: Callable[..., Decoder], words: Tokenizer
) -> None:
    """Scores and estimates are close to those of the same weights in float32."""
    half = own_decoder_of(family, dtype)
    full = Decoder(copy.deepcopy(half.model).float(), half.anatomy)
    corruption: Corruption = NoiseCorruption(gaussian(1.0), 3)
    actual, expected = (run_trace(decoder, words, corruption=corruption) for decoder in (half, full))
    assert actual.answer == expected.answer
    # Rounding of logits gives p a relative error.
    relative = 0.03 if dtype == torch.bfloat16 else 0.004
    for actual_by_kind, expected_by_kind in (
        (actual.scores, expected.scores),
        (actual.estimate, expected.estimate),
    ):
        assert list(actual_by_kind) == list(expected_by_kind)
        for kind, table in expected_by_kind.items():
            assert_scores(actual_by_kind[kind], table, relative * torch.tensor(table).abs().max().item())
