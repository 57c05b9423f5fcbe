"""The estimate is the derivative of the exact restoration, and leaves the model unchanged."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import locate_subject
from retcon.engine.tracing.attribution import estimate_scores
from retcon.engine.tracing.corruption import (
    CorruptedRun,
    NoiseCorruption,
    SwapCorruption,
    run_corrupted,
    swap_subject,
)
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.rules import KINDS, Kind, window_blocks
from retcon.tests.helpers.families import FAMILIES
from retcon.tests.helpers.oracles import hooked_all
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of

Decoders = Callable[..., Decoder]
PROMPT, SUBJECT, BEGIN, LAYERS = "in Paris The Eiffel Tower is in", "The Eiffel Tower", 2, 4
ESTIMATED: tuple[Kind, ...] = ("hidden", "mlp", "attn")
STEP = 0.002


def corrupted_of(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, *others: str) -> CorruptedRun:
    prompts = [(PROMPT, SUBJECT), *((PROMPT.replace(SUBJECT, other), other) for other in others)]
    facts = [locate_subject(tokenizer, *prompt) for prompt in prompts]
    return run_corrupted(decoder, facts, NoiseCorruption(gaussian(0.3), 2))


def slopes(decoder: Decoder, rows: Tensor, corrupt: Callable[[Tensor], Tensor]) -> dict[Kind, Tensor]:
    """d p(answer) / d epsilon `[T - begin, layers]` for states (1 - epsilon) corrupted + epsilon clean.

    Computed with full passes of the model. Each pass has the rows twice (clean row first): for epsilon = STEP and
    -STEP.
    """
    model, anatomy, (size, length) = decoder.model, decoder.anatomy, rows.shape
    names: dict[Kind, list[str]] = {
        "hidden": [f"{anatomy.blocks}.{layer}" for layer in range(LAYERS)],
        "mlp": [anatomy.module_name("mlp", layer) for layer in range(LAYERS)],
        "attn": [anatomy.module_name("attn", layer) for layer in range(LAYERS)],
    }

    def probabilities(changes: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
        with torch.no_grad(), hooked_all(model, {anatomy.embedding: corrupt} | changes):
            return model(rows.repeat(2, 1)).logits[:, -1].double().softmax(-1)

    def interpolate(token: int) -> Callable[[Tensor], Tensor]:
        def change(output: Tensor) -> Tensor:
            states = output.clone().view(2, size, length, -1)
            difference = states[:, :1, token] - states[:, 1:, token]
            states[:, 1:, token] += torch.tensor([STEP, -STEP])[:, None, None] * difference
            return states.view(output.shape)

        return change

    answer = int(probabilities({})[0].argmax())
    tables = {}
    for kind, modules in names.items():
        table = torch.zeros(length - BEGIN, LAYERS, dtype=torch.float64)
        for layer, name in enumerate(modules):
            for token in range(BEGIN, length):
                up, down = probabilities({name: interpolate(token)})[:, answer].view(2, size)[:, 1:].mean(1)
                table[token - BEGIN, layer] = (up - down) / (2 * STEP)
        tables[kind] = table
    return tables


@pytest.mark.parametrize("family", FAMILIES)
def test_estimate_is_slope_of_exact_restoration(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of(family, torch.float64)
    corrupted = corrupted_of(decoder, words)
    [estimated] = estimate_scores(decoder, corrupted, ESTIMATED, 1)
    fact = corrupted.shape
    corrupt = NoiseCorruption(gaussian(0.3), 2).edit(fact)
    assert corrupt is not None
    expected = slopes(decoder, torch.tensor([fact.ids] * 3), corrupt)
    for kind, slope in expected.items():
        change = torch.tensor(estimated[kind][BEGIN:], dtype=torch.float64) - corrupted.low[0]
        scale = slope.abs().max().item()
        assert scale > 1e-5
        torch.testing.assert_close(change, slope, rtol=0.02, atol=0.005 * scale)


def test_swapped_subject_has_the_same_slope(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = own_decoder_of("llama", torch.float64)
    fact = locate_subject(words, PROMPT, SUBJECT)
    swapped = swap_subject(words, PROMPT, SUBJECT, "it France Berlin")
    corrupted = run_corrupted(decoder, [fact], SwapCorruption({(PROMPT, fact.subject): swapped}))
    [estimated] = estimate_scores(decoder, corrupted, ESTIMATED, 1)
    for kind, slope in slopes(decoder, torch.tensor([fact.ids, swapped]), torch.clone).items():
        change = torch.tensor(estimated[kind][BEGIN:], dtype=torch.float64) - corrupted.low[0]
        torch.testing.assert_close(change, slope, rtol=0.02, atol=0.005 * slope.abs().max().item())


@pytest.mark.parametrize("window", [2, 3, 10])
def test_window_estimate_is_sum_over_blocks(
    window: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("gpt2")
    corrupted = corrupted_of(decoder, words)
    [single] = estimate_scores(decoder, corrupted, ESTIMATED, 1)
    [windowed] = estimate_scores(decoder, corrupted, ESTIMATED, window)
    assert windowed["hidden"] == single["hidden"]
    low = corrupted.low[0]
    for kind in ("mlp", "attn"):
        parts = torch.tensor(single[kind]) - low
        columns = [parts[:, slice(*window_blocks(layer, window, LAYERS))].sum(1) for layer in range(LAYERS)]
        expected = low + torch.stack(columns, 1)
        torch.testing.assert_close(torch.tensor(windowed[kind]), expected, atol=1e-7, rtol=0)


def test_estimates_requested_kinds(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    """Severed kinds have no estimate. Tokens before the subject have the corrupted probability."""
    corrupted = corrupted_of(decoder_of("llama"), words)
    [estimated] = estimate_scores(decoder_of("llama"), corrupted, KINDS, 3)
    assert set(estimated) == {"hidden", "mlp", "attn"}
    for table in estimated.values():
        assert [len(row) for row in table] == [LAYERS] * len(corrupted.shape.ids)
        assert table[:BEGIN] == [[corrupted.low[0]] * LAYERS] * BEGIN
    [one] = estimate_scores(decoder_of("llama"), corrupted, ("severed-mlp", "attn"), 3)
    assert list(one) == ["attn"]
    torch.testing.assert_close(torch.tensor(one["attn"]), torch.tensor(estimated["attn"]))
    assert estimate_scores(decoder_of("llama"), corrupted, ("severed-attn",), 3) == [{}]
    # The last block is read at the last position only.
    assert [row[-1] for row in estimated["hidden"][:-1]] == [corrupted.low[0]] * (
        len(corrupted.shape.ids) - 1
    )


@pytest.mark.parametrize("family", ["gpt2", "falcon", "bloom"])
def test_facts_of_a_batch_are_independent(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, others = decoder_of(family), ("The Toyota Camry", "it France Berlin")
    together = estimate_scores(decoder, corrupted_of(decoder, words, *others), ESTIMATED, 3)
    assert len(together) == 3
    for fact, expected in zip((SUBJECT, *others), together, strict=True):
        located = locate_subject(words, PROMPT.replace(SUBJECT, fact), fact)
        alone = run_corrupted(decoder, [located], NoiseCorruption(gaussian(0.3), 2))
        [actual] = estimate_scores(decoder, alone, ESTIMATED, 3)
        for kind in ESTIMATED:
            torch.testing.assert_close(
                torch.tensor(actual[kind]), torch.tensor(expected[kind]), atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("family", ["gpt2", "falcon", "gemma3"])
def test_leaves_model_and_run_unchanged(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of(family)
    before, corrupted = bits_of(decoder.model), corrupted_of(decoder, words)
    run = corrupted.run
    states = [*run.states, *run.captured["attn"], *run.captured["mlp"]]
    copies = [tensor.clone() for tensor in states]
    estimate_scores(decoder, corrupted, ESTIMATED, 3)
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, before)
    for parameter in decoder.model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    for tensor, copy in zip(states, copies, strict=True):
        assert torch.equal(tensor, copy)
        assert not tensor.requires_grad
