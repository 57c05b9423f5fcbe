"""Results of traces: skipped requests, batches, progress, interruption and resumption."""

import dataclasses

import pytest
from transformers import PreTrainedTokenizerBase

from retcon.engine.errors import InputError, StopRequested
from retcon.engine.model.decoder import Decoder
from retcon.engine.tracing.corruption import NoiseCorruption, SwapCorruption, swap_subject
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.rules import KINDS
from retcon.engine.tracing.trace import (
    FactTrace,
    SkippedPrompt,
    TraceRequest,
    TraceSettings,
    estimate_costs,
    trace,
    trace_one,
)
from retcon.tests.helpers.traces import (
    BEGIN,
    LAYERS,
    PROMPT,
    SETTINGS,
    SUBJECT,
    Decoders,
    Tokenizer,
    assert_same,
    assert_scores,
    run_trace,
)
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of


def test_trace_has_tokens_and_subject(decoder_of: Decoders, words_after_start: Tokenizer) -> None:
    result = run_trace(decoder_of("llama"), words_after_start)
    located = result.located
    assert (located.prompt, located.subject, located.begin, located.end) == (PROMPT, SUBJECT, 3, 6)
    assert located.tokens == ["<s>", *PROMPT.split()]
    assert set(result.scores) == set(KINDS)
    for table in result.scores.values():
        assert [len(row) for row in table] == [LAYERS] * len(located.tokens)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_known_cells_are_exact(family: str, decoder_of: Decoders, words: Tokenizer) -> None:
    result = run_trace(decoder_of(family), words)
    for kind, scores in result.scores.items():
        assert scores[:BEGIN] == [[result.low] * LAYERS] * BEGIN
        if kind not in ("mlp", "attn"):
            assert [row[-1] for row in scores[BEGIN:]] == [result.low] * 5 + [result.high]


def test_subject_last_traces_one_token(decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of("qwen2")
    everything, last = run_trace(decoder, words), run_trace(decoder, words, tokens="subject-last")
    for kind, table in last.scores.items():
        assert_scores([table[4]], [everything.scores[kind][4]], 1e-7)
        others = [score for token, row in enumerate(table) if token != 4 for score in row]
        assert others == [None] * (LAYERS * (len(last.located.tokens) - 1))


def test_traces_only_requested_kinds(decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of("phi")
    everything = run_trace(decoder, words).scores
    for kind in KINDS:
        assert run_trace(decoder, words, kinds=(kind,)).scores == {kind: everything[kind]}


def test_matching_expected_answer_is_traced(decoder_of: Decoders, words: Tokenizer) -> None:
    right = run_trace(decoder_of("llama"), words)
    for expected in (right.answer, f" {right.answer}", f"{right.answer} and then"):
        result = trace_one(decoder_of("llama"), words, TraceRequest(PROMPT, SUBJECT, expected), SETTINGS)
        assert_same(result, right, 0)


def wrong_for(answer: str) -> str:
    return next(word for word in ("Rome", "Berlin") if word != answer)


def test_other_first_choice_is_skipped(decoder_of: Decoders, words: Tokenizer) -> None:
    right = run_trace(decoder_of("llama"), words)
    request = TraceRequest(PROMPT, SUBJECT, wrong_for(right.answer))
    [(number, result)] = trace(decoder_of("llama"), words, [request], SETTINGS)
    assert isinstance(result, SkippedPrompt)
    assert (number, result.located, result.answer, result.high) == (
        0,
        right.located,
        right.answer,
        right.high,
    )
    assert repr(request.expected) in result.reason
    assert repr(right.answer) in result.reason
    with pytest.raises(InputError, match="first choice"):
        trace_one(decoder_of("llama"), words, request, SETTINGS)


@pytest.mark.parametrize("subject", ["Big Ben", "the eiffel tower", "", "  "])
def test_missing_subject_is_skipped(subject: str, decoder_of: Decoders, words: Tokenizer) -> None:
    request = TraceRequest(PROMPT, subject)
    [(_, result)] = trace(decoder_of("llama"), words, [request], SETTINGS)
    assert isinstance(result, SkippedPrompt)
    assert "subject" in result.reason
    assert (result.located, result.answer, result.high) == (None, "", None)
    with pytest.raises(InputError, match="subject"):
        trace_one(decoder_of("llama"), words, request, SETTINGS)


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": ("mpl",)},
        {"kinds": ()},
        {"corruption": NoiseCorruption(gaussian(0.3), samples=0)},
        {"window": 0},
    ],
)
def test_invalid_settings_are_refused(changes: dict) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(SETTINGS, **changes)


def mixed_requests(tokenizer: Tokenizer, decoder: Decoder) -> list[TraceRequest]:
    """Requests of three shapes: some with a wrong answer, one shape with only wrong answers, one missing subject."""
    right = run_trace(decoder, tokenizer).answer
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
def test_batched_requests_equal_single_requests(family: str, decoder_of: Decoders, words: Tokenizer) -> None:
    decoder = decoder_of(family)
    requests = mixed_requests(words, decoder)
    results = list(trace(decoder, words, requests, SETTINGS))
    assert sorted(number for number, _ in results) == list(range(len(requests)))
    for number, result in results:
        [(_, alone)] = trace(decoder, words, [requests[number]], SETTINGS)
        if isinstance(alone, FactTrace):
            assert isinstance(result, FactTrace)
            assert_same(result, alone)
        else:
            assert isinstance(result, SkippedPrompt)
            assert dataclasses.replace(result, high=None) == dataclasses.replace(alone, high=None)
            assert result.high == pytest.approx(alone.high, abs=1e-6)
    assert {number for number, result in results if isinstance(result, SkippedPrompt)} == {2, 3, 7}
    assert_untouched(decoder.model)


def test_batched_swaps_equal_single_swaps(decoder_of: Decoders, words: Tokenizer) -> None:
    decoder, others = decoder_of("qwen3"), {"Paris": "Camry", "Rome": "France", "Tower": "Italy"}
    requests = [TraceRequest(f"the city of {subject} is located in", subject) for subject in others]
    swapped = {
        (q.prompt, q.subject): swap_subject(words, q.prompt, q.subject, others[q.subject]) for q in requests
    }
    settings = dataclasses.replace(SETTINGS, corruption=SwapCorruption(swapped))
    for number, result in trace(decoder, words, requests, settings):
        assert isinstance(result, FactTrace)
        assert_same(result, trace_one(decoder, words, requests[number], settings))


def test_no_requests_give_no_results(decoder_of: Decoders, words: Tokenizer) -> None:
    assert list(trace(decoder_of("llama"), words, [], SETTINGS)) == []


@pytest.mark.parametrize("tokens", ["all", "subject-last"])
def test_on_token_receives_growing_scores(tokens: str, decoder_of: Decoders, words: Tokenizer) -> None:
    """Fractions increase from 0 within a batch. A cell that is set does not change."""
    decoder = decoder_of("gpt2")
    settings = dataclasses.replace(SETTINGS, tokens=tokens)
    calls: list[tuple[tuple[int, ...], float]] = []
    latest: dict[int, dict[tuple[str, int, int], float]] = {}

    def cells(result: FactTrace) -> dict[tuple[str, int, int], float]:
        return {
            (kind, token, layer): score
            for kind, scores in result.scores.items()
            for token, row in enumerate(scores)
            for layer, score in enumerate(row)
            if score is not None
        }

    def on_token(numbers: list[int], traces: list[FactTrace], fraction: float) -> None:
        calls.append((tuple(numbers), fraction))
        for number, result in zip(numbers, traces, strict=True):
            now, before = cells(result), latest.get(number, {})
            assert now.items() >= before.items()
            assert set(result.estimate) == {"hidden", "mlp", "attn"}
            latest[number] = now

    requests = mixed_requests(words, decoder)
    results = dict(trace(decoder, words, requests, settings, on_token=on_token))
    batches = list(dict.fromkeys(numbers for numbers, _ in calls))
    assert batches == [(0, 4, 5, 8), (1, 6)]
    for batch in batches:
        fractions = [fraction for numbers, fraction in calls if numbers == batch]
        assert fractions[0] == 0
        assert fractions == sorted(set(fractions))
        assert fractions[-1] < 1
        shape = results[batch[0]].located
        assert shape is not None
        expected = 1 if tokens == "subject-last" else len(shape.ids) - shape.begin
        assert len(fractions) == expected * len(KINDS)
    for number, last in latest.items():
        result = results[number]
        assert isinstance(result, FactTrace)
        assert cells(result).items() >= last.items()
        assert last, "no score was reported before the end"


@pytest.mark.parametrize("tokens", ["all", "subject-last"])
@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3"])
def test_costs_cover_exactly_the_traced_requests(
    family: str, tokens: str, decoder_of: Decoders, words: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(family)
    settings = dataclasses.replace(SETTINGS, tokens=tokens)  # type: ignore[arg-type]
    requests = mixed_requests(words, decoder)
    done: list[int] = []
    monkeypatch.setattr("retcon.engine.tracing.trace.COST_BATCH_TOKENS", 20)  # several batches
    costs = estimate_costs(decoder, words, requests, settings, done.append)
    results = dict(trace(decoder, words, requests, settings))
    assert costs.keys() == {number for number, result in results.items() if isinstance(result, FactTrace)}
    for number, cost in costs.items():
        located = results[number].located
        assert located is not None
        length, last = len(located.ids), located.last
        expected = length - last if tokens == "subject-last" else sum(range(1, length - located.begin + 1))
        assert cost == expected
    assert len(done) > 1 and done == sorted(done) and done[-1] == len(requests) - 1


@pytest.mark.parametrize("after", [0, 8])
@pytest.mark.parametrize("family", ["gpt_neox", "falcon"])
def test_stop_leaves_model_unchanged(after: int, family: str, decoder_of: Decoders, words: Tokenizer) -> None:
    decoder, calls = decoder_of(family), []
    expected, before = run_trace(decoder, words), bits_of(decoder.model)

    def on_token(_numbers: list[int], _traces: list[FactTrace], fraction: float) -> None:
        calls.append(fraction)
        if len(calls) > after:
            raise StopRequested

    with pytest.raises(StopRequested):
        list(trace(decoder, words, [TraceRequest(PROMPT, SUBJECT)] * 2, SETTINGS, on_token=on_token))
    assert len(calls) == after + 1
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, before)
    assert_same(run_trace(decoder, words), expected, 0)


@pytest.mark.parametrize("finished", [{0}, {1, 2}, {0, 1, 2}])
def test_resumed_trace_has_the_same_bits(
    finished: set[int], decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """An interrupted batch runs again completely, in the same shape."""
    decoder = decoder_of("llama")
    requests = [
        TraceRequest("in Paris The Eiffel Tower is located in", "The Eiffel Tower"),
        TraceRequest("in Rome The Eiffel Tower is located in", "The Eiffel Tower"),
        TraceRequest("in Berlin The Eiffel Tower is located in", "The Eiffel Tower"),
    ]
    settings = TraceSettings(NoiseCorruption(gaussian(0.3), 3), ("hidden", "mlp"), window=3)
    uninterrupted = dict(trace(decoder, words, requests, settings))
    resumed = dict(trace(decoder, words, requests, settings, finished=finished))
    assert resumed.keys() == uninterrupted.keys() - finished
    assert all(resumed[number] == uninterrupted[number] for number in resumed)
