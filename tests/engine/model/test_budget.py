"""A trace gives the same scores with small budgets and after running out of memory."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.decoder import Decoder, Resumption
from retcon.engine.model.memory import Budget
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.trace import FactTrace, TraceRequest, TraceSettings, trace
from retcon.tests.helpers.untouched import assert_untouched

Decoders = Callable[[str], Decoder]
CPU = torch.device("cpu")
SAMPLES, LAYERS = 3, 4
SETTINGS = TraceSettings(NoiseCorruption(gaussian(0.3), SAMPLES), ("hidden", "mlp", "severed-attn"), window=3)
REQUESTS = [
    TraceRequest("in Paris The Eiffel Tower is located in", "The Eiffel Tower"),
    TraceRequest("in Rome The Toyota Camry is produced by", "The Toyota Camry"),
    TraceRequest("it plays football and sport language and then", "football and sport"),
]
LENGTH, BEGIN = 8, 2
WHOLE = LAYERS * SAMPLES * LENGTH


def limited_device(more_than: int, calls: list[list[int]]) -> Callable[[Sequence[int]], list[int]]:
    """Work that runs out of memory above `more_than` items."""

    def work(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        if len(items) > more_than:
            raise torch.OutOfMemoryError
        return [item * 10 for item in items]

    return work


def test_batches_fill_the_budget() -> None:
    calls: list[list[int]] = []
    budget = Budget(CPU, 35)
    assert list(budget.batches(range(7), 10, limited_device(9, calls))) == [[0, 10, 20], [30, 40, 50], [60]]
    assert (budget.tokens, budget.halvings) == (35, 0)


def test_item_above_budget_runs_alone() -> None:
    assert list(Budget(CPU, 1).batches([1, 2], 10, limited_device(9, []))) == [[10], [20]]


def test_out_of_memory_halves_budget_for_good() -> None:
    calls: list[list[int]] = []
    budget = Budget(CPU, 1_000_000)
    done = list(budget.batches(range(16), 10, limited_device(3, calls)))
    assert [item for batch in done for item in batch] == [item * 10 for item in range(16)]
    assert [len(items) for items in calls] == [16, 8, 4, *[2] * 8]
    assert (budget.tokens, budget.halvings) == (20, 3)
    calls.clear()
    list(budget.batches(range(4), 5, limited_device(4, calls)))
    assert [len(items) for items in calls] == [4]
    assert budget.halvings == 3


def test_single_item_out_of_memory_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(Budget(CPU).batches(range(8), 10, limited_device(0, [])))


def test_other_errors_are_raised() -> None:
    budget = Budget(CPU, 100)

    def work(_parts: Sequence[int]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(budget.batches(range(8), 10, work))
    assert budget.halvings == 0


def test_error_of_the_consumer_is_raised() -> None:
    """An out-of-memory error in the code that consumes results does not repeat the batch."""
    budget, calls = Budget(CPU, 20), []
    results = budget.batches(range(4), 10, limited_device(9, calls))
    next(results)
    with pytest.raises(torch.OutOfMemoryError):
        results.throw(torch.OutOfMemoryError())  # type: ignore[attr-defined]
    assert (budget.halvings, len(calls)) == (0, 1)


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 8192), ("cuda", 262144)])
def test_default_budget_of_a_device(device: str, tokens: int) -> None:
    assert Budget(torch.device(device)).tokens == tokens


def record_steps(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[[int, int], bool] = lambda *_: False
) -> list[tuple[int, int]]:
    """Record (rows, positions) of each step. A step runs out of memory if `refuse(rows, positions)`."""
    calls: list[tuple[int, int]] = []
    call = Resumption.step

    def recorded(self: Resumption, layer: int, hidden: Tensor, *rest: Any, **named: Any) -> Tensor:
        if refuse(hidden.shape[0], hidden.shape[1]):
            raise torch.OutOfMemoryError("as if the device were full")
        calls.append((hidden.shape[0], hidden.shape[1]))
        return call(self, layer, hidden, *rest, **named)

    monkeypatch.setattr(Resumption, "step", recorded)
    return calls


def trace_all(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, budget: Budget | None = None
) -> dict[int, FactTrace]:
    results = list(trace(decoder, tokenizer, REQUESTS, SETTINGS, budget))
    assert sorted(number for number, _ in results) == [0, 1, 2]
    return {number: result for number, result in results if isinstance(result, FactTrace)}


def assert_same(actual: dict[int, FactTrace], expected: dict[int, FactTrace]) -> None:
    assert actual.keys() == expected.keys()
    for number, result in expected.items():
        for actual_by_kind, expected_by_kind in (
            (actual[number].scores, result.scores),
            (actual[number].estimate, result.estimate),
        ):
            assert list(actual_by_kind) == list(expected_by_kind)
            for kind, table in expected_by_kind.items():
                torch.testing.assert_close(
                    torch.tensor(actual_by_kind[kind]), torch.tensor(table), atol=1e-6, rtol=0
                )


def test_facts_and_layers_share_batches(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_steps(monkeypatch)
    trace_all(decoder_of("llama"), words)
    assert max(rows for rows, _ in calls) == 3 * LAYERS * SAMPLES


@pytest.mark.parametrize(
    ("family", "tokens"),
    [("gpt2", 1), ("bloom", 1), ("gpt2", 27), ("gemma2", 50), ("llama", WHOLE), ("gpt2", 2 * WHOLE + 1)],
)
def test_small_budgets_give_the_same_scores(
    family: str,
    tokens: int,
    decoder_of: Decoders,
    words: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = decoder_of(family)
    expected = trace_all(decoder, words)
    calls, budget = record_steps(monkeypatch), Budget(CPU, tokens)
    actual = trace_all(decoder, words, budget)
    assert max(rows * positions for rows, positions in calls) <= max(tokens, SAMPLES * (LENGTH - BEGIN))
    assert_same(actual, expected)
    assert (budget.tokens, budget.halvings) == (tokens, 0)


@pytest.mark.parametrize(
    ("family", "most_rows"),
    [("gpt2", SAMPLES), ("falcon", SAMPLES), ("qwen3", 4), ("gpt2", 7), ("falcon", 10), ("gpt2", 20)],
)
def test_out_of_memory_in_trace_halves_batch(
    family: str,
    most_rows: int,
    decoder_of: Decoders,
    words: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Down to one fact and one layer per batch."""
    decoder = decoder_of(family)
    expected = trace_all(decoder, words)
    calls, budget = record_steps(monkeypatch, lambda rows, _positions: rows > most_rows), Budget(CPU)
    actual = trace_all(decoder, words, budget)
    assert max(rows for rows, _ in calls) <= most_rows
    assert_same(actual, expected)
    assert_untouched(decoder.model)
    assert 0 < budget.halvings <= 8
    assert budget.tokens < 3 * WHOLE
    halvings, tokens = budget.halvings, budget.tokens
    trace_all(decoder, words, budget)
    assert budget.halvings - halvings <= 1, "what was learned is forgotten"
    assert budget.tokens in (tokens, tokens // 2)


@pytest.mark.parametrize("where", ["run", "preview"])
def test_out_of_memory_in_first_run_takes_fewer_facts(
    where: str, decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of("llama")
    expected = trace_all(decoder, words)
    if where == "run":
        run = Decoder.run

        def full(self: Decoder, ids: Tensor, *rest: object, **options: object) -> object:
            if len(ids) > 1 + SAMPLES:
                raise torch.OutOfMemoryError
            return run(self, ids, *rest, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Decoder, "run", full)
    else:
        record_steps(monkeypatch, lambda rows, _positions: torch.is_grad_enabled() and rows > SAMPLES)
    budget = Budget(CPU)
    assert_same(trace_all(decoder, words, budget), expected)
    assert budget.halvings > 0
    assert_untouched(decoder.model)


def test_out_of_memory_at_single_cell_is_raised(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_steps(monkeypatch, lambda rows, _positions: rows >= SAMPLES)
    with pytest.raises(torch.OutOfMemoryError):
        list(trace(decoder_of("llama"), words, REQUESTS, dataclasses.replace(SETTINGS, kinds=("mlp",))))
    assert_untouched(decoder_of("llama").model)
