"""Causal tracing gives the published loop's numbers, whatever the batches, and leaves nothing behind."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from families import FAMILIES
from oracles import PlainTrace, plain_trace
from retcon.engine.decoder import Decoder, Resumption
from retcon.engine.errors import Cancelled, InputError
from retcon.engine.progress import Progress
from retcon.engine.trace import FactTrace, TraceSettings, WrongAnswer, trace_fact
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from untouched import assert_untouched

Decoders = Callable[[str], Decoder]
PROMPT, SUBJECT = "in Paris The Eiffel Tower is located in", "The Eiffel Tower"
RANGE = (2, 5)
SETTINGS = TraceSettings(noise=0.3, samples=3, seed=1)


def plain(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, kinds: list[tuple[str, int]]) -> PlainTrace:
    ids = tokenizer(PROMPT)["input_ids"]
    return plain_trace(decoder.model, decoder.anatomy, ids, RANGE, noise=0.3, samples=3, seed=1, kinds=kinds)


def assert_scores(
    actual: list[list[float | None]], expected: list[list[float]], tolerance: float = 1e-5
) -> None:
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), atol=tolerance, rtol=0)


def traced(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, **settings: object) -> FactTrace:
    result = trace_fact(decoder, tokenizer, PROMPT, SUBJECT, dataclasses.replace(SETTINGS, **settings))
    assert isinstance(result, FactTrace)
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_and_window_equals_the_published_loop(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of(family)
    expected = plain(decoder, words, [("hidden", 1), ("mlp", 3), ("attn", 3), ("mlp", 10), ("attn", 10)])
    for window in (3, 10):
        result = traced(decoder, words, window=window)
        assert result.high == pytest.approx(expected.high, abs=1e-5)
        assert result.low == pytest.approx(expected.low, abs=1e-5)
        assert result.answer == words.decode([expected.answer])
        assert_scores(result.scores["hidden"], expected.scores["hidden", 1])
        assert_scores(result.scores["mlp"], expected.scores["mlp", window])
        assert_scores(result.scores["attn"], expected.scores["attn", window])
    table = torch.tensor(expected.scores["hidden", 1])
    assert table.std() > 1e-4, "this model's cells are all alike: the comparison would show nothing"


def test_what_is_reported_about_the_fact(
    decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    result = trace_fact(decoder_of("llama"), words_after_start, PROMPT, SUBJECT, SETTINGS)
    assert isinstance(result, FactTrace)
    assert (result.prompt, result.subject, result.subject_range) == (PROMPT, SUBJECT, (3, 6))
    assert result.tokens == ["<s>", *PROMPT.split()]
    assert set(result.scores) == {"hidden", "mlp", "attn"}
    for table in result.scores.values():
        assert [len(row) for row in table] == [4] * len(result.tokens)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3"])
def test_a_subject_that_begins_the_prompt(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, prompt = decoder_of(family), "The Eiffel Tower is located in the"
    result = trace_fact(decoder, words, prompt, SUBJECT, dataclasses.replace(SETTINGS, window=2))
    assert isinstance(result, FactTrace)
    ids = words(prompt)["input_ids"]
    kinds = [("hidden", 1), ("mlp", 2), ("attn", 2)]
    expected = plain_trace(
        decoder.model, decoder.anatomy, ids, (0, 3), noise=0.3, samples=3, seed=1, kinds=kinds
    )
    for kind, window in kinds:
        assert_scores(result.scores[kind], expected.scores[kind, window])


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
@pytest.mark.parametrize("window", [1, 2, 4, 5])
def test_odd_and_even_windows(
    family: str, window: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of(family)
    expected = plain(decoder, words, [("mlp", window)])
    assert_scores(
        traced(decoder, words, window=window, kinds=("mlp",)).scores["mlp"], expected.scores["mlp", window]
    )


def test_another_seed_draws_other_noise(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("llama")
    one, other = traced(decoder, words), traced(decoder, words, seed=2)
    assert one.high == other.high
    assert abs(one.low - other.low) > 1e-6


def test_only_the_subjects_last_token(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("qwen2")
    everything, last = traced(decoder, words), traced(decoder, words, tokens="subject-last")
    for kind, table in last.scores.items():
        assert_scores([table[4]], [everything.scores[kind][4]], 1e-7)
        others = [score for token, row in enumerate(table) if token != 4 for score in row]
        assert others == [None] * (len(others))
        assert len(others) == 4 * (len(last.tokens) - 1)


def test_only_the_kinds_asked_for(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("phi")
    assert traced(decoder, words, kinds=("attn",)).scores == {"attn": traced(decoder, words).scores["attn"]}


def test_an_expected_answer_that_is_the_first_choice_is_traced(
    decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    answer = traced(decoder_of("llama"), words).answer
    for expected in (answer, f" {answer}", f"{answer} and then"):
        assert isinstance(
            trace_fact(decoder_of("llama"), words, PROMPT, SUBJECT, SETTINGS, expected), FactTrace
        )


def test_another_first_choice_is_a_wrong_answer(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    right = traced(decoder_of("llama"), words)
    wrong = next(word for word in ("Rome", "Berlin") if word != right.answer)
    result = trace_fact(decoder_of("llama"), words, PROMPT, SUBJECT, SETTINGS, wrong)
    assert result == WrongAnswer(PROMPT, SUBJECT, PROMPT.split(), RANGE, right.answer, wrong, right.high)
    assert repr(wrong) in result.reason
    assert repr(right.answer) in result.reason


@pytest.mark.parametrize("subject", ["Big Ben", "the eiffel tower", "", "  "])
def test_a_subject_that_is_not_in_the_prompt(
    subject: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match="subject"):
        trace_fact(decoder_of("llama"), words, PROMPT, subject, SETTINGS)


@pytest.mark.parametrize("changes", [{"kinds": ("mpl",)}, {"kinds": ()}, {"samples": 0}, {"window": 0}])
def test_settings_that_make_no_trace(changes: dict) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma2"])
@pytest.mark.parametrize("at_once", [1, 3 * 9, 50])
def test_small_batches_give_the_same_numbers(
    family: str,
    at_once: int,
    decoder_of: Decoders,
    words: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = decoder_of(family)
    expected = traced(decoder, words, window=3)
    monkeypatch.setattr("retcon.engine.trace._TOKENS_AT_ONCE", at_once)
    seen = _note_batches(monkeypatch)
    actual = traced(decoder, words, window=3)
    assert max(rows * positions for rows, positions in seen) <= max(at_once, 3 * 8)
    for kind, table in expected.scores.items():
        assert_scores(actual.scores[kind], table, 1e-6)


def _note_batches(monkeypatch: pytest.MonkeyPatch, too_many_rows: float = math.inf) -> list[tuple[int, int]]:
    """Notes (rows, positions) of each step; out of memory where there are too many rows."""
    seen: list[tuple[int, int]] = []
    step = Resumption.step

    def noted(self: Resumption, layer: int, hidden: Tensor, *rest: object) -> Tensor:
        if hidden.shape[0] >= too_many_rows:
            raise torch.OutOfMemoryError("as if the device were full")
        seen.append((hidden.shape[0], hidden.shape[1]))
        return step(self, layer, hidden, *rest)

    monkeypatch.setattr(Resumption, "step", noted)
    return seen


@pytest.mark.parametrize("family", ["gpt2", "falcon", "qwen3"])
@pytest.mark.parametrize("too_many_rows", [4, 7, 10])
def test_out_of_memory_halves_the_batch_and_goes_on(
    family: str,
    too_many_rows: int,
    decoder_of: Decoders,
    words: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = decoder_of(family)
    expected = traced(decoder, words, window=3)
    seen = _note_batches(monkeypatch, too_many_rows)
    actual = traced(decoder, words, window=3)
    assert max(rows for rows, _ in seen) < too_many_rows
    for kind, table in expected.scores.items():
        assert_scores(actual.scores[kind], table, 1e-6)
    assert_untouched(decoder.model)


def test_out_of_memory_at_a_single_cell_is_not_hidden(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    _note_batches(monkeypatch, too_many_rows=3)
    with pytest.raises(torch.OutOfMemoryError):
        traced(decoder_of("llama"), words)
    assert_untouched(decoder_of("llama").model)


@pytest.mark.parametrize("after", [0, 5])
def test_cancelling_leaves_nothing_behind(
    after: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) > after:
            raise Cancelled

    decoder = decoder_of("gpt_neox")
    with pytest.raises(Cancelled):
        trace_fact(decoder, words, PROMPT, SUBJECT, SETTINGS, report=report)
    assert len(reports) == after + 1
    assert_untouched(decoder.model)


def test_progress_rises_to_the_end(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    reports: list[Progress] = []
    trace_fact(decoder_of("gpt2"), words, PROMPT, SUBJECT, SETTINGS, report=reports.append)
    done = [progress.done for progress in reports]
    assert done == sorted(done)
    assert {progress.total for progress in reports} == {done[-1]}
    assert len(done) == 3 * 6 + 1
