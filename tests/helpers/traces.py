"""A prompt to trace, its settings, and comparisons of traces with the published loops."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.decoder import Decoder
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.rules import KINDS
from retcon.engine.tracing.trace import FactTrace, TraceRequest, TraceSettings, trace_one
from retcon.tests.helpers.oracles import PlainTrace, adding, plain_trace

Decoders = Callable[[str], Decoder]
Tokenizer = PreTrainedTokenizerBase
PROMPT, SUBJECT = "in Paris The Eiffel Tower is located in", "The Eiffel Tower"
OTHER = "it France Berlin"
BEGIN, WIDTH, LAYERS = 2, 32, 4
NOISE = NoiseCorruption(gaussian(0.3), samples=3)
SETTINGS = TraceSettings(NOISE, KINDS, window=3)


def published_draw(samples: int = 3, tokens: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).randn(samples, tokens, WIDTH) * 0.3


def run_plain_trace(
    decoder: Decoder, tokenizer: Tokenizer, *windows: int, prompt: str = PROMPT, unwindowed: bool = True
) -> PlainTrace:
    """The published loops with `NOISE`: `mlp` and `attn` for each window, and the kinds without a window."""
    ids = tokenizer(prompt)["input_ids"]
    begin = prompt.split().index("The")
    kinds = [(kind, window) for window in windows for kind in ("mlp", "attn")]
    kinds += [(kind, 1) for kind in ("hidden", "severed-mlp", "severed-attn") if unwindowed]
    return plain_trace(decoder.model, decoder.anatomy, [ids] * 4, adding(published_draw(), begin), kinds)


def assert_scores(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), atol=tolerance, rtol=0)


def assert_equals_plain(result: FactTrace, expected: PlainTrace, window: int) -> None:
    """Scores equal the published ones to 1e-6: cells of tiny models differ little."""
    assert result.high == pytest.approx(expected.high, abs=1e-6)
    assert result.low == pytest.approx(expected.low, abs=1e-6)
    for kind, scores in result.scores.items():
        assert_scores(scores, expected.scores[kind, window if kind in ("mlp", "attn") else 1])


def assert_same(actual: FactTrace, expected: FactTrace, tolerance: float = 1e-6) -> None:
    """Scores and estimates are equal to `tolerance`."""
    assert (actual.located, actual.answer) == (expected.located, expected.answer)
    assert actual.high == pytest.approx(expected.high, abs=tolerance)
    assert actual.low == pytest.approx(expected.low, abs=tolerance)
    for scores_by_kind, expected_by_kind in (
        (actual.scores, expected.scores),
        (actual.estimate, expected.estimate),
    ):
        assert list(scores_by_kind) == list(expected_by_kind)
        for kind, scores in expected_by_kind.items():
            assert_scores(scores_by_kind[kind], scores, tolerance)


def run_trace(decoder: Decoder, tokenizer: Tokenizer, prompt: str = PROMPT, **settings: Any) -> FactTrace:
    return trace_one(
        decoder, tokenizer, TraceRequest(prompt, SUBJECT), dataclasses.replace(SETTINGS, **settings)
    )
