"""Causal tracing gives the published loops' numbers, whatever the corruption and the kind."""

import copy
import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from retcon.engine.errors import InputError, StopRequested
from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.tracing.corruption import Corruption, NoiseCorruption, SwapCorruption, swap_subject
from retcon.engine.tracing.noise import Noise, gaussian, multivariate, student, uniform
from retcon.engine.tracing.rules import KINDS, window_blocks
from retcon.engine.tracing.trace import (
    FactTrace,
    SkippedPrompt,
    TraceRequest,
    TraceSettings,
    estimate_costs,
    trace,
    trace_one,
)
from retcon.tests.helpers.families import CONFIGS, FAMILIES, UNLIKE
from retcon.tests.helpers.oracles import PlainTrace, adding, plain_trace
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

Decoders = Callable[[str], Decoder]
Tokenizer = PreTrainedTokenizerBase
PROMPT, SUBJECT = "in Paris The Eiffel Tower is located in", "The Eiffel Tower"
OTHER = "it France Berlin"
BEGIN, WIDTH, LAYERS = 2, 32, 4
NOISE = NoiseCorruption(gaussian(0.3), samples=3)
SETTINGS = TraceSettings(NOISE, KINDS, window=3)


def published_draw(samples: int = 3, tokens: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).randn(samples, tokens, WIDTH) * 0.3


def plain(
    decoder: Decoder, tokenizer: Tokenizer, *windows: int, prompt: str = PROMPT, unwindowed: bool = True
) -> PlainTrace:
    """The published loops with `NOISE`: `mlp` and `attn` with each window, and the kinds without one."""
    ids = tokenizer(prompt)["input_ids"]
    begin = prompt.split().index("The")
    kinds = [(kind, window) for window in windows for kind in ("mlp", "attn")]
    kinds += [(kind, 1) for kind in ("hidden", "severed-mlp", "severed-attn") if unwindowed]
    return plain_trace(decoder.model, decoder.anatomy, [ids] * 4, adding(published_draw(), begin), kinds)


def assert_scores(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), atol=tolerance, rtol=0)


def assert_equals_plain(result: FactTrace, expected: PlainTrace, window: int) -> None:
    """The issue asks for 1e-5; the tiny models' cells lie close together, so these tests ask for 1e-6."""
    assert result.high == pytest.approx(expected.high, abs=1e-6)
    assert result.low == pytest.approx(expected.low, abs=1e-6)
    for kind, scores in result.scores.items():
        assert_scores(scores, expected.scores[kind, window if kind in ("mlp", "attn") else 1])


def assert_same(actual: FactTrace, expected: FactTrace, tolerance: float = 1e-6) -> None:
    """Equal to rounding; the estimates too."""
    assert (actual.located, actual.answer) == (expected.located, expected.answer)
    assert actual.high == pytest.approx(expected.high, abs=tolerance)
    assert actual.low == pytest.approx(expected.low, abs=tolerance)
    for got, wanted in ((actual.scores, expected.scores), (actual.estimate, expected.estimate)):
        assert list(got) == list(wanted)
        for kind, scores in wanted.items():
            assert_scores(got[kind], scores, tolerance)


def traced(decoder: Decoder, tokenizer: Tokenizer, prompt: str = PROMPT, **settings: Any) -> FactTrace:
    return trace_one(
        decoder, tokenizer, TraceRequest(prompt, SUBJECT), dataclasses.replace(SETTINGS, **settings)
    )


# Against the published loops


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_and_window_equals_the_published_loop(
    family: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    before = bits_of(decoder.model)
    expected = plain(decoder, words, 3, 10)
    for window in (3, 10):
        result = traced(decoder, words, window=window)
        assert result.answer == words.decode([expected.answer])
        assert_equals_plain(result, expected, window)
    for (kind, window), scores in expected.scores.items():
        if window != 10:  # more than there are blocks: all layers are one
            spread = torch.tensor(scores)[BEGIN:].std(1).max()
            assert spread > 2e-5, (
                f"{kind}: this model's layers are all alike, the comparison would show nothing"
            )
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, before)


@pytest.mark.parametrize("family", ["gpt2", "falcon", "gemma3"])
@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_odd_and_even_windows(family: str, window: int, decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of(family)
    result = traced(decoder, words, window=window, kinds=("mlp", "attn"))
    assert_equals_plain(result, plain(decoder, words, window, unwindowed=False), window)


@cache
def deep_decoder(family: str) -> Decoder:
    """Nine blocks: windows of ten end inside."""
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
def test_windows_inside_a_deep_model(family: str, words: Tokenizer) -> None:
    decoder, prompt = deep_decoder(family), "in The Eiffel Tower is located"
    expected = plain(decoder, words, 5, 10, prompt=prompt, unwindowed=False)
    for window in (5, 10):
        result = traced(decoder, words, prompt, window=window, kinds=("mlp", "attn"))
        assert_equals_plain(result, expected, window)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3"])
@pytest.mark.parametrize("prompt", ["The Eiffel Tower is located in the", "Paris in The Eiffel Tower"])
def test_a_subject_that_begins_or_ends_the_prompt(
    family: str, prompt: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    result = traced(decoder, words, prompt, window=2)
    assert_equals_plain(result, plain(decoder, words, 2, prompt=prompt), 2)


def test_which_blocks_a_window_restores() -> None:
    """[l - w/2, l + ceil(w/2)), cut at the ends."""
    assert [window_blocks(layer, 3, 4) for layer in range(4)] == [(0, 2), (0, 3), (1, 4), (2, 4)]
    assert [window_blocks(layer, 2, 4) for layer in range(4)] == [(0, 1), (0, 2), (1, 3), (2, 4)]
    assert [window_blocks(layer, 1, 3) for layer in range(3)] == [(0, 1), (1, 2), (2, 3)]
    assert window_blocks(15, 10, 48) == (10, 20)
    assert window_blocks(47, 10, 48) == (42, 48)
    assert window_blocks(2, 10, 48) == (0, 7)


# Other corruptions


def _covariance() -> torch.Tensor:
    factors = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return factors @ factors.T / WIDTH * 0.05


MEAN = torch.linspace(-0.1, 0.2, WIDTH, dtype=torch.float64)
RULES: dict[str, Noise] = {
    "gaussian": gaussian(0.4),
    "uniform": uniform(0.5),
    "multivariate": multivariate(MEAN, _covariance()),
    "student": student(MEAN, _covariance(), 3),
}


def published_noise(rule: str, seed: int) -> np.ndarray:
    """Three samples of three tokens of a rule in `RULES`, by the published formulas."""
    random, size = np.random.RandomState(seed), (3, 3, WIDTH)
    if rule == "uniform":
        return random.uniform(-1, 1, size) * 0.5
    if rule == "gaussian":
        return random.randn(*size) * 0.4
    _, spread, directions = _covariance().svd()
    colored = random.randn(*size) @ (directions * spread.sqrt()).T.numpy() + MEAN.numpy()
    if rule == "multivariate":
        return colored
    factors = np.sqrt((3 - 2) / np.random.RandomState(2).chisquare(df=3, size=1000))
    return colored * factors[:9].reshape(3, 3, 1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("replace", [False, True], ids=["added", "replaced"])
@pytest.mark.parametrize("rule", RULES)
def test_every_noise_rule_equals_the_published_loop(
    rule: str, replace: bool, family: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    corruption = NoiseCorruption(RULES[rule], 3, seed=4, replace=replace)
    result = traced(decoder, words, corruption=corruption, kinds=("hidden", "severed-attn"))
    corrupt = adding(published_noise(rule, 4), BEGIN, replace=replace)
    ids = words(PROMPT)["input_ids"]
    expected = plain_trace(
        decoder.model, decoder.anatomy, [ids] * 4, corrupt, [("hidden", 1), ("severed-attn", 1)]
    )
    assert_equals_plain(result, expected, 3)


def test_another_seed_draws_other_noise(decoder_of: Decoders, words: Tokenizer) -> None:
    one = traced(decoder_of("llama"), words)
    other = traced(decoder_of("llama"), words, corruption=dataclasses.replace(NOISE, seed=2))
    assert one.high == other.high
    assert abs(one.low - other.low) > 1e-6


@pytest.mark.parametrize("family", UNLIKE)
def test_a_swapped_subject_equals_the_published_loop_on_other_tokens(
    family: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    swapped = swap_subject(words, PROMPT, SUBJECT, OTHER)
    result = traced(decoder, words, corruption=SwapCorruption({(PROMPT, SUBJECT): swapped}))
    kinds = [(kind, 3 if kind in ("mlp", "attn") else 1) for kind in KINDS]
    rows = [words(PROMPT)["input_ids"], words(PROMPT.replace(SUBJECT, OTHER))["input_ids"]]
    expected = plain_trace(decoder.model, decoder.anatomy, rows, None, kinds)
    assert_equals_plain(result, expected, 3)
    assert abs(result.high - result.low) > 1e-4


# What is reported


def test_what_is_reported_about_the_fact(decoder_of: Decoders, words_after_start: Tokenizer) -> None:
    result = traced(decoder_of("llama"), words_after_start)
    located = result.located
    assert (located.prompt, located.subject, located.begin, located.end) == (PROMPT, SUBJECT, 3, 6)
    assert located.tokens == ["<s>", *PROMPT.split()]
    assert set(result.scores) == set(KINDS)
    for table in result.scores.values():
        assert [len(row) for row in table] == [LAYERS] * len(located.tokens)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_cells_that_are_known_beforehand(family: str, decoder_of: Decoders, words: Tokenizer) -> None:
    result = traced(decoder_of(family), words)
    for kind, scores in result.scores.items():
        assert scores[:BEGIN] == [[result.low] * LAYERS] * BEGIN
        if kind not in ("mlp", "attn"):
            assert [row[-1] for row in scores[BEGIN:]] == [result.low] * 5 + [result.high]


def test_only_the_subjects_last_token(decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of("qwen2")
    everything, last = traced(decoder, words), traced(decoder, words, tokens="subject-last")
    for kind, table in last.scores.items():
        assert_scores([table[4]], [everything.scores[kind][4]], 1e-7)
        others = [score for token, row in enumerate(table) if token != 4 for score in row]
        assert others == [None] * (LAYERS * (len(last.located.tokens) - 1))


def test_only_the_kinds_asked_for(decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of("phi")
    everything = traced(decoder, words).scores
    for kind in KINDS:
        assert traced(decoder, words, kinds=(kind,)).scores == {kind: everything[kind]}


def test_an_expected_answer_that_is_the_first_choice_is_traced(
    decoder_of: Decoders, words: Tokenizer
) -> None:
    right = traced(decoder_of("llama"), words)
    for expected in (right.answer, f" {right.answer}", f"{right.answer} and then"):
        result = trace_one(decoder_of("llama"), words, TraceRequest(PROMPT, SUBJECT, expected), SETTINGS)
        assert_same(result, right, 0)


def wrong_for(answer: str) -> str:
    return next(word for word in ("Rome", "Berlin") if word != answer)


def test_another_first_choice_is_skipped(decoder_of: Decoders, words: Tokenizer) -> None:
    right = traced(decoder_of("llama"), words)
    question = TraceRequest(PROMPT, SUBJECT, wrong_for(right.answer))
    [(number, result)] = trace(decoder_of("llama"), words, [question], SETTINGS)
    assert isinstance(result, SkippedPrompt)
    assert (number, result.located, result.answer, result.high) == (
        0,
        right.located,
        right.answer,
        right.high,
    )
    assert repr(question.expected) in result.reason
    assert repr(right.answer) in result.reason
    with pytest.raises(InputError, match="first choice"):
        trace_one(decoder_of("llama"), words, question, SETTINGS)


@pytest.mark.parametrize("subject", ["Big Ben", "the eiffel tower", "", "  "])
def test_a_subject_that_is_not_in_the_prompt(subject: str, decoder_of: Decoders, words: Tokenizer) -> None:
    question = TraceRequest(PROMPT, subject)
    [(_, result)] = trace(decoder_of("llama"), words, [question], SETTINGS)
    assert isinstance(result, SkippedPrompt)
    assert "subject" in result.reason
    assert (result.located, result.answer, result.high) == (None, "", None)
    with pytest.raises(InputError, match="subject"):
        trace_one(decoder_of("llama"), words, question, SETTINGS)


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": ("mpl",)},
        {"kinds": ()},
        {"corruption": NoiseCorruption(gaussian(0.3), samples=0)},
        {"window": 0},
    ],
)
def test_settings_that_make_no_trace(changes: dict) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(SETTINGS, **changes)


# Many questions


def _mixed(tokenizer: Tokenizer, decoder: Decoder) -> list[TraceRequest]:
    """Three shapes in turn, a wrong answer among right ones, a shape of wrong ones only, a missing subject."""
    right = traced(decoder, tokenizer).answer
    alone = trace_one(decoder, tokenizer, TraceRequest("Rome is in Italy", "Rome"), SETTINGS).answer
    return [
        TraceRequest(PROMPT, SUBJECT),
        TraceRequest("Paris is in France", "Paris"),
        TraceRequest("in Rome The Toyota Camry is produced by", "The Toyota Camry", "w7 and no more"),
        TraceRequest("the city of Rome", "Berlin"),
        TraceRequest("it plays football and sport language and then", "football and sport"),
        TraceRequest(PROMPT, SUBJECT, right),
        TraceRequest("Rome is in Italy", "Rome", alone),
        TraceRequest("she is born in Paris", "Paris", "w7"),
        TraceRequest("a city in France The Eiffel Tower is", "in France The"),
    ]


@pytest.mark.parametrize("family", ["gpt2", "falcon-alibi", "bloom", "gemma3"])
def test_many_questions_give_the_same_as_one_by_one(
    family: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder = decoder_of(family)
    questions = _mixed(words, decoder)
    results = list(trace(decoder, words, questions, SETTINGS))
    assert sorted(number for number, _ in results) == list(range(len(questions)))
    for number, result in results:
        [(_, alone)] = trace(decoder, words, [questions[number]], SETTINGS)
        if isinstance(alone, FactTrace):
            assert isinstance(result, FactTrace)
            assert_same(result, alone)
        else:
            assert isinstance(result, SkippedPrompt)
            assert dataclasses.replace(result, high=None) == dataclasses.replace(alone, high=None)
            assert result.high == pytest.approx(alone.high, abs=1e-6)
    assert {number for number, result in results if isinstance(result, SkippedPrompt)} == {2, 3, 7}
    assert_untouched(decoder.model)


def test_swaps_in_one_batch_give_the_same_as_one_by_one(decoder_of: Decoders, words: Tokenizer) -> None:
    decoder, others = decoder_of("qwen3"), {"Paris": "Camry", "Rome": "France", "Tower": "Italy"}
    questions = [TraceRequest(f"the city of {subject} is located in", subject) for subject in others]
    swapped = {
        (q.prompt, q.subject): swap_subject(words, q.prompt, q.subject, others[q.subject]) for q in questions
    }
    settings = dataclasses.replace(SETTINGS, corruption=SwapCorruption(swapped))
    for number, result in trace(decoder, words, questions, settings):
        assert isinstance(result, FactTrace)
        assert_same(result, trace_one(decoder, words, questions[number], settings))


def test_no_questions(decoder_of: Decoders, words: Tokenizer) -> None:
    assert list(trace(decoder_of("llama"), words, [], SETTINGS)) == []


# Watching and stopping


@pytest.mark.parametrize("tokens", ["all", "subject-last"])
def test_who_watches_sees_the_map_fill(tokens: str, decoder_of: Decoders, words: Tokenizer) -> None:
    """Shares rise from 0 within a batch; a cell that is there once stays as it is."""
    decoder = decoder_of("gpt2")
    settings = dataclasses.replace(SETTINGS, tokens=tokens)
    calls: list[tuple[tuple[int, ...], float]] = []
    seen: dict[int, dict[tuple[str, int, int], float]] = {}

    def cells(result: FactTrace) -> dict[tuple[str, int, int], float]:
        return {
            (kind, token, layer): score
            for kind, scores in result.scores.items()
            for token, row in enumerate(scores)
            for layer, score in enumerate(row)
            if score is not None
        }

    def on_token(numbers: list[int], traces: list[FactTrace], share: float) -> None:
        calls.append((tuple(numbers), share))
        for number, result in zip(numbers, traces, strict=True):
            now, before = cells(result), seen.get(number, {})
            assert now.items() >= before.items()
            assert set(result.estimate) == {"hidden", "mlp", "attn"}
            seen[number] = now

    questions = _mixed(words, decoder)
    results = dict(trace(decoder, words, questions, settings, on_token=on_token))
    batches = list(dict.fromkeys(numbers for numbers, _ in calls))
    assert batches == [(0, 4, 5, 8), (1, 6)]
    for batch in batches:
        shares = [share for numbers, share in calls if numbers == batch]
        assert shares[0] == 0
        assert shares == sorted(set(shares))
        assert shares[-1] < 1
        shape = results[batch[0]].located
        assert shape is not None
        expected = 1 if tokens == "subject-last" else len(shape.ids) - shape.begin
        assert len(shares) == expected * len(KINDS)
    for number, last in seen.items():
        result = results[number]
        assert isinstance(result, FactTrace)
        assert cells(result).items() >= last.items()
        assert last, "nothing was seen before the end"


@pytest.mark.parametrize("tokens", ["all", "subject-last"])
@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3"])
def test_the_plan_knows_what_will_be_traced(
    family: str, tokens: str, decoder_of: Decoders, words: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(family)
    settings = dataclasses.replace(SETTINGS, tokens=tokens)  # type: ignore[arg-type]
    questions = _mixed(words, decoder)
    asked: list[int] = []
    monkeypatch.setattr("retcon.engine.tracing.trace._BATCH_TOKENS", 20)  # several batches
    costs = estimate_costs(decoder, words, questions, settings, asked.append)
    results = dict(trace(decoder, words, questions, settings))
    assert costs.keys() == {number for number, result in results.items() if isinstance(result, FactTrace)}
    for number, cost in costs.items():
        located = results[number].located
        assert located is not None
        length, last = len(located.ids), located.last
        expected = length - last if tokens == "subject-last" else sum(range(1, length - located.begin + 1))
        assert cost == expected
    assert len(asked) > 1 and asked == sorted(asked) and asked[-1] == len(questions) - 1


@pytest.mark.parametrize("after", [0, 8])
@pytest.mark.parametrize("family", ["gpt_neox", "falcon"])
def test_cancelling_leaves_nothing_behind(
    after: int, family: str, decoder_of: Decoders, words: Tokenizer
) -> None:
    decoder, calls = decoder_of(family), []
    expected, before = traced(decoder, words), bits_of(decoder.model)

    def on_token(_numbers: list[int], _traces: list[FactTrace], share: float) -> None:
        calls.append(share)
        if len(calls) > after:
            raise StopRequested

    with pytest.raises(StopRequested):
        list(trace(decoder, words, [TraceRequest(PROMPT, SUBJECT)] * 2, SETTINGS, on_token=on_token))
    assert len(calls) == after + 1
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, before)
    assert_same(traced(decoder, words), expected, 0)


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "falcon", "bloom"])
def test_half_precision_is_close(
    family: str, dtype: torch.dtype, own_decoder_of: Callable[..., Decoder], words: Tokenizer
) -> None:
    """To the same weights in float32, and all of it finite."""
    half = own_decoder_of(family, dtype)
    full = Decoder(copy.deepcopy(half.model).float(), half.anatomy)
    corruption: Corruption = NoiseCorruption(gaussian(1.0), 3)
    actual, expected = (traced(decoder, words, corruption=corruption) for decoder in (half, full))
    assert actual.answer == expected.answer
    # Rounded logits make p wrong by a share of itself.
    share = 0.03 if dtype == torch.bfloat16 else 0.004
    for got, wanted in ((actual.scores, expected.scores), (actual.estimate, expected.estimate)):
        assert list(got) == list(wanted)
        for kind, table in wanted.items():
            assert_scores(got[kind], table, share * torch.tensor(table).abs().max().item())


@pytest.mark.parametrize("finished", [{0}, {1, 2}, {0, 1, 2}])
def test_going_on_after_a_stop_gives_the_same_bits(
    finished: set[int], decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """A batch that was stopped in its middle runs whole, in the shape that it had."""
    decoder = decoder_of("llama")
    questions = [
        TraceRequest("in Paris The Eiffel Tower is located in", "The Eiffel Tower"),
        TraceRequest("in Rome The Eiffel Tower is located in", "The Eiffel Tower"),
        TraceRequest("in Berlin The Eiffel Tower is located in", "The Eiffel Tower"),
    ]
    settings = TraceSettings(NoiseCorruption(gaussian(0.3), 3), ("hidden", "mlp"), window=3)
    undisturbed = dict(trace(decoder, words, questions, settings))
    went_on = dict(trace(decoder, words, questions, settings, finished=finished))
    assert went_on.keys() == undisturbed.keys() - finished
    assert all(went_on[number] == undisturbed[number] for number in went_on)
