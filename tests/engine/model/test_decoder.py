"""Running and resuming gives the results of the model's own forward pass, and leaves no hooks in it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import pad_aligned
from retcon.tests.helpers.families import FAMILIES, tiny_model
from retcon.tests.helpers.oracles import hooked, reading_input, reading_output
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of

Decoders = Callable[[str], Decoder]
LENGTH = 9
SLIDING = ["mistral", "gemma2", "gemma3"]


def some_ids(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(3, 96, (rows, length), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(ids).logits


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_run_and_logits_equal_the_model(family: str, decoder_of: Decoders) -> None:
    decoder, ids = decoder_of(family), some_ids()
    run = decoder.run(ids)
    assert len(run.states) == decoder.layers + 1
    with torch.no_grad():
        assert_close(decoder.logits(run.states[-1]), logits_of(decoder.model, ids))
        assert_close(decoder.logits(run.states[-1][:, -2:]), logits_of(decoder.model, ids)[:, -2:])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_shuffled_rows_equal_the_model(family: str, decoder_of: Decoders) -> None:
    decoder, ids = decoder_of(family), some_ids()
    expected = logits_of(decoder.model, ids)
    run, rows = decoder.run(ids), torch.tensor([2, 0, 1, 0, 2])
    for start in range(LENGTH):
        resumption = decoder.resume(run, start)
        for first in range(decoder.layers):
            hidden = resumption.states_entering(first, rows)
            for layer in range(first, decoder.layers):
                hidden = resumption.step(layer, hidden, rows)
            assert_close(decoder.logits(hidden), expected[rows, start:])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_changed_states_propagate_as_in_the_model(family: str, decoder_of: Decoders) -> None:
    """Rows of one batch with different changes that join at different layers. The oracle makes the changes by hooks."""
    decoder, ids = decoder_of(family), some_ids()
    run, start = decoder.run(ids), 3
    change = torch.randn(decoder.anatomy.width, generator=torch.Generator().manual_seed(1))
    first, second = torch.tensor([1]), torch.tensor([1, 2])
    resumption = decoder.resume(run, start)
    hidden = resumption.states_entering(1, first)
    hidden[:, 0] += change
    hidden = resumption.step(1, hidden, first)
    joining = resumption.states_entering(2, torch.tensor([2]))
    joining[:, 0] += change
    hidden = torch.cat([hidden, joining])

    def also_mlp(output: Tensor) -> Tensor:
        return torch.cat([output[:1], output[1:] * 2])

    hidden = resumption.step(2, hidden, second, {"mlp": also_mlp})
    for layer in range(3, decoder.layers):
        hidden = resumption.step(layer, hidden, second)

    def moved(output: Tensor) -> Tensor:
        return output + change * (torch.arange(output.shape[1]) == start)[None, :, None]

    def doubled(output: Tensor) -> Tensor:
        rows = output.view(1, LENGTH, -1)
        return torch.cat([rows[:, :start], rows[:, start:] * 2], dim=1).view(output.shape)

    with hooked(decoder.blocks[0], moved):
        assert_close(decoder.logits(hidden[:1]), logits_of(decoder.model, ids[1:2])[:, start:])
    with hooked(decoder.blocks[1], moved), hooked(decoder.part("mlp", 2), doubled):
        assert_close(decoder.logits(hidden[1:]), logits_of(decoder.model, ids[2:3])[:, start:])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_positions_equal_the_model(family: str, decoder_of: Decoders) -> None:
    decoder, ids = decoder_of(family), some_ids()
    run, rows = decoder.run(ids), torch.tensor([2, 0, 2, 1])
    for start, stop in ((0, 1), (0, 5), (3, 4), (2, 7), (6, 9), (8, 9)):
        resumption = decoder.resume(run, start, stop)
        for layer in range(decoder.layers):
            entering = resumption.states_entering(layer, rows)
            assert torch.equal(entering, run.states[layer][rows, start:stop])
            assert_close(resumption.step(layer, entering, rows), run.states[layer + 1][rows, start:stop])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True], ids=["alone", "padded"])
def test_last_step_equals_full_step(family: str, padded: bool, decoder_of: Decoders) -> None:
    """For states that differ from the run's. Both resumptions stay usable for other steps."""
    decoder, rows = decoder_of(family), torch.tensor([2, 0, 2, 1])
    lengths, at = ((9, 5, 7), [8, 4, 6]) if padded else ((9, 9, 9), [0, 0, 0])
    tokens = [row[:length].tolist() for row, length in zip(some_ids(), lengths, strict=True)]
    ids, mask = pad_aligned(tokens, at, decoder.device)
    run = decoder.run(ids, mask if padded else None)
    last = decoder.resume(run, LENGTH - 1)
    for start in (0, 2, 5, LENGTH - 2):
        resumption = decoder.resume(run, start)
        for layer in range(decoder.layers):
            hidden = resumption.states_entering(layer, rows)
            hidden += torch.randn(hidden.shape, generator=torch.Generator().manual_seed(layer))
            expected = resumption.step(layer, hidden, rows)[:, -1:]
            assert (expected - run.states[layer + 1][rows, -1:]).abs().max() > 1e-2
            assert_close(resumption.last_step(last, layer, hidden, rows), expected, 1e-5)
            assert_close(resumption.step(layer, hidden, rows)[:, -1:], expected, 1e-6)
    assert_untouched(decoder.model)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at", [[0, 0, 0], [8, 4, 6], [3, 3, 1]], ids=["right", "left", "both"])
def test_padding_on_either_side_changes_nothing(family: str, at: list[int], decoder_of: Decoders) -> None:
    decoder, lengths = decoder_of(family), (9, 5, 7)
    rows = [row[:length].tolist() for row, length in zip(some_ids(), lengths, strict=True)]
    ids, mask = pad_aligned(rows, at, decoder.device)
    run = decoder.run(ids, mask)
    logits = decoder.logits(run.states[-1])
    start, every = max(at), torch.arange(3)
    resumption = decoder.resume(run, start)
    hidden = resumption.states_entering(1, every)
    for layer in range(1, decoder.layers):
        hidden = resumption.step(layer, hidden, every)
    resumed = decoder.logits(hidden)
    for i, row in enumerate(rows):
        expected = logits_of(decoder.model, torch.tensor([row]))[0]
        assert_close(logits[i][mask[i].bool()], expected)
        real = mask[i, start:].bool()
        assert_close(resumed[i][real], expected[at[i] :])


@pytest.mark.parametrize("family", SLIDING)
def test_sliding_windows_are_shorter_than_prompts(family: str) -> None:
    """The tests above rely on it to prove that the window is respected."""
    wide = copy.deepcopy(tiny_model(family).config)
    wide.sliding_window = 64
    unlimited = type(tiny_model(family))(wide).eval()
    unlimited.load_state_dict(tiny_model(family).state_dict())
    difference = logits_of(unlimited, some_ids()) - logits_of(tiny_model(family), some_ids())
    assert difference[:, :4].abs().max() < 1e-5
    assert difference[:, -1].abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_captures_outputs_and_keys(family: str, decoder_of: Decoders) -> None:
    decoder, ids = decoder_of(family), some_ids()
    keys: dict[int, Tensor] = {}
    run = decoder.run(
        ids,
        capture=("attn", "mlp", "matrix"),
        on_key=lambda layer, key: keys.update({layer: key}),
        stop_after=2,
    )
    assert sorted(keys) == [0, 1, 2]
    assert [len(run.captured[role]) for role in ("attn", "mlp", "matrix")] == [3, 3, 3]
    assert len(run.states) == 4
    for role in ("attn", "mlp", "matrix"):
        left: list[Tensor] = []
        with reading_output(decoder.part(role, 2), left):
            logits_of(decoder.model, ids)
        assert_close(run.captured[role][2], left[0].view(3, LENGTH, -1))
    entered: list[Tensor] = []
    with reading_input(decoder.part("matrix", 1), entered):
        logits_of(decoder.model, ids)
    assert_close(keys[1], entered[0].view(3, LENGTH, -1))


@torch.no_grad()
def test_embedding_edit_applies_to_one_run(decoder_of: Decoders) -> None:
    decoder, ids = decoder_of("gpt2"), some_ids()
    run = decoder.run(ids, embedding_edit=torch.zeros_like)
    with hooked(decoder.embedding, torch.zeros_like):
        expected = logits_of(decoder.model, ids)
    assert_close(decoder.logits(run.states[-1]), expected)
    assert (expected - logits_of(decoder.model, ids)).abs().max() > 1e-2


def test_run_without_states_cannot_be_resumed(decoder_of: Decoders) -> None:
    run = decoder_of("llama").run(some_ids(), resumable=False)
    assert run.states == []
    with pytest.raises(ValueError, match="resumable"):
        decoder_of("llama").resume(run, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_leaves_model_unchanged(family: str, decoder_of: Decoders) -> None:
    decoder, every = decoder_of(family), torch.arange(3)
    before = bits_of(decoder.model)
    run = decoder.run(some_ids(), embedding_edit=lambda x: x, capture=("mlp",), on_key=lambda *_: None)
    resumption = decoder.resume(run, 2)
    with torch.no_grad():
        hidden = resumption.step(0, resumption.states_entering(0, every), every, {"attn": lambda x: x})
        decoder.logits(hidden)
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, before)


class InjectedError(Exception):
    pass


def raise_error(*_args: object) -> Tensor:
    raise InjectedError


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon", "bloom"])
def test_exception_leaves_model_unchanged(family: str, decoder_of: Decoders) -> None:
    decoder, every = decoder_of(family), torch.arange(3)
    run = decoder.run(some_ids())
    resumption = decoder.resume(run, 2)
    with pytest.raises(InjectedError):
        decoder.run(some_ids(), embedding_edit=raise_error)
    assert_untouched(decoder.model)
    with pytest.raises(InjectedError):
        decoder.run(some_ids(), on_key=raise_error, capture=("attn",))
    assert_untouched(decoder.model)
    with pytest.raises(InjectedError):
        resumption.step(1, resumption.states_entering(1, every), every, {"mlp": raise_error})
    assert_untouched(decoder.model)
    with pytest.raises(RuntimeError), torch.no_grad():
        decoder.logits(torch.zeros(2, 1, decoder.anatomy.width + 1))
    assert_untouched(decoder.model)


def test_keeps_forward_of_another_library(own_decoder_of: Decoders) -> None:
    decoder = own_decoder_of("llama")
    calls = []
    own = decoder.blocks[1].forward

    def theirs(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return own(*args, **kwargs)

    decoder.blocks[1].forward = theirs  # type: ignore[method-assign]
    with torch.no_grad():
        assert_close(
            decoder.logits(decoder.run(some_ids()).states[-1]), logits_of(tiny_model("llama"), some_ids())
        )
    assert decoder.blocks[1].__dict__["forward"] is theirs
    assert calls


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_equals_the_model(family: str, own_decoder_of: Callable[..., Decoder]) -> None:
    decoder, ids, rows = own_decoder_of(family, torch.bfloat16), some_ids(), torch.tensor([1, 1, 0])
    expected = logits_of(decoder.model, ids)
    run = decoder.run(ids)
    assert run.states[-1].dtype == torch.bfloat16
    assert torch.equal(decoder.logits(run.states[-1]), expected)
    resumption = decoder.resume(run, 4)
    hidden = resumption.states_entering(2, rows)
    for layer in range(2, decoder.layers):
        hidden = resumption.step(layer, hidden, rows)
    scale = expected.float().abs().max()
    assert (decoder.logits(hidden).float() - expected[rows, 4:].float()).abs().max() < 0.03 * scale


@torch.no_grad()
def test_logits_in_batches_are_equal(decoder_of: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of("gemma2")
    states = decoder.run(some_ids()).states[-1]
    at_once = decoder.logits(states)
    monkeypatch.setattr("retcon.engine.model.decoder.LOGITS_BATCH", 96 * LENGTH)
    assert_close(decoder.logits(states), at_once, 1e-6)
