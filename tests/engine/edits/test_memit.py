"""MEMIT, EMMET and AlphaEdit against their published formulas in dense form, and the batched value search."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS
from retcon.engine.edits.hparams.memit import MemitHparams
from retcon.engine.edits.keys import read_keys
from retcon.engine.edits.memit import MultiLayerMethod
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.edits.value_search import find_values
from retcon.engine.errors import InputError
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Materializer
from retcon.engine.progress import silent
from retcon.tests.helpers.families import FAMILIES
from retcon.tests.helpers.oracles import hooked, reading_input, reading_output
from retcon.tests.helpers.untouched import assert_untouched

Decoders = Callable[[str], Decoder]
CONTEXTS = ["{}", "you . {}", "sport is born . {}"]
REQUESTS = [
    Request("The Eiffel Tower", "{} is located in", "Rome"),
    Request("Paris", "the capital {} is in", "Italy"),
    Request("Berlin", "{} is the", "sport"),
]
SETTINGS = {"layers": (1, 2), "v_num_grad_steps": 6, "v_lr": 0.3, "clamp_norm_factor": 0.75}
MEMIT = MemitHparams.parse(SETTINGS | {"mom2_update_weight": 2.0}, "test")
WIDTH = 24


def random_moment(width: int, seed: int = 3) -> Tensor:
    keys = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return keys.T @ keys / len(keys)


def some_keys(count: int, seed: int = 5) -> Tensor:
    return torch.randn(WIDTH, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(name: str, keys: Tensor, past_keys: Tensor, **changes: float) -> Tensor:
    method = METHODS[name]
    assert isinstance(method, MultiLayerMethod)
    hparams = HPARAMS[name].parse(SETTINGS | changes, "test")
    return method.update_directions(FactoredMoment(random_moment(WIDTH)), keys, past_keys, hparams)


def test_memit_equals_dense_least_squares() -> None:
    keys, moment = some_keys(4), random_moment(WIDTH)
    dense = torch.linalg.solve(2.0 * moment + keys @ keys.T, keys)
    torch.testing.assert_close(directions("memit", keys, some_keys(0), mom2_update_weight=2.0), dense)


@pytest.mark.parametrize(("count", "damping"), [(1, 0.0), (4, 0.3)])
def test_emmet_equals_dense_constrained_solution(count: int, damping: float) -> None:
    keys, inverse = some_keys(count), torch.linalg.inv(2.0 * random_moment(WIDTH))
    inner = keys.T @ inverse @ keys + damping * torch.eye(count, dtype=torch.float64)
    a = directions("emmet", keys, some_keys(0), mom2_update_weight=2.0, emmet_lambda=0.3)
    torch.testing.assert_close(a, inverse @ keys @ torch.linalg.inv(inner))


@pytest.mark.parametrize("before", [0, 3])
def test_alphaedit_equals_dense_projected_solution(before: int) -> None:
    keys, past_keys, moment = some_keys(4), some_keys(before, seed=9), random_moment(WIDTH)
    values, vectors = torch.linalg.eigh(moment)
    threshold = values.median().item()
    null = vectors[:, values < threshold]
    project = null @ null.T
    known = keys @ keys.T + past_keys @ past_keys.T
    dense = torch.linalg.solve(project @ known + 0.7 * torch.eye(WIDTH, dtype=torch.float64), project @ keys)
    a = directions("alphaedit", keys, past_keys, nullspace_threshold=threshold, L2=0.7)
    torch.testing.assert_close(a, dense)


def test_alphaedit_needs_a_null_space() -> None:
    with pytest.raises(InputError, match="nullspace_threshold"):
        directions("alphaedit", some_keys(2), some_keys(0), nullspace_threshold=1e-9)


@pytest.mark.parametrize("place", ["matrix", "block"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_batched_values_equal_single_ones(
    family: str, place: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Each request has a vector of its own and stops independently of the batch."""
    decoder = decoder_of(family)

    def search(requests: list[Request]) -> list:
        task = EditTask(decoder, words, requests, {}, MEMIT, CONTEXTS, silent)
        return find_values(task, 1, lambda *_: None, place)  # type: ignore[arg-type]

    together = search(REQUESTS)
    for value, request in zip(together, REQUESTS, strict=True):
        [alone] = search([request])
        torch.testing.assert_close(value.delta, alone.delta, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(value.keys, alone.keys, atol=1e-5, rtol=1e-4)
        assert [step["loss"] for step in value.losses] == pytest.approx(
            [step["loss"] for step in alone.losses], abs=1e-4
        )
    assert_untouched(decoder.model)


@pytest.mark.parametrize("family", FAMILIES)
def test_block_value_gives_the_reported_loss(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """The whole model, with the vector added to the block's output, has the loss of the search's last step."""
    decoder, request, layer = decoder_of(family), REQUESTS[0], 1
    hparams = MEMIT.with_changes(v_num_grad_steps=4)
    task = EditTask(decoder, words, [request], {}, hparams, ["{}"], silent)
    [value] = find_values(task, layer, lambda *_: None, "block")
    ids, target = words(request.text)["input_ids"], words("Rome")["input_ids"][0]

    def add(output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 2] += value.delta  # the subject is the first three words
        return output

    with torch.no_grad(), hooked(decoder.blocks[layer], add):
        logits = decoder.model(torch.tensor([ids])).logits[0, -1]
    assert -logits.log_softmax(-1)[target].item() == pytest.approx(value.losses[-1]["nll"], abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "phi"])
def test_keys_equal_two_level_average_of_passes(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, layer = decoder_of(family), 2
    read = read_keys(decoder, words, REQUESTS, [1, layer], CONTEXTS)
    for number, request in enumerate(REQUESTS):
        keys, states = [], []
        for context in CONTEXTS:
            text = context.replace("{}", request.text)
            length = len(words(text[: text.index(request.subject) + len(request.subject)])["input_ids"])
            ids = torch.tensor([words(text)["input_ids"]])
            entered: list[Tensor] = []
            outputs: list[Tensor] = []
            matrix, block = decoder.part("matrix", layer), decoder.blocks[layer]
            with torch.no_grad(), reading_input(matrix, entered), reading_output(block, outputs):
                decoder.model(ids)
            keys.append(entered[0].view(ids.shape[1], -1)[length - 1])
            states.append(outputs[0][0, length - 1])
        average = (keys[0] + torch.stack(keys[1:]).mean(0)) / 2
        torch.testing.assert_close(read.keys[layer][number].float(), average, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(read.states[layer][number].float(), states[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["memit", "emmet"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weak_regularization_gives_the_wanted_state(
    name: str, family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """With almost no weight on C, one request at one layer reaches the wanted state within 1e-4.

    Measured with a plain hook on the model, after any norm or scale that follows the matrix.
    """
    decoder, request = own_decoder_of(family), REQUESTS[0]
    before = {key: tensor.clone() for key, tensor in decoder.model.state_dict().items()}
    hparams = HPARAMS[name].parse(SETTINGS | {"layers": (2,), "mom2_update_weight": 1e-7}, "test")
    moments = {2: FactoredMoment(random_moment(decoder.anatomy.key_width))}
    task = EditTask(decoder, words, [request], moments, hparams, ["{}"], silent)
    result = METHODS[name].write(task)
    residuals = result.figures[0]["residual_norms"]
    assert residuals[0] > 0.01
    assert all(torch.equal(before[key], tensor) for key, tensor in decoder.model.state_dict().items())
    normed = decoder.anatomy.mlp_norm is not None
    [value] = find_values(task, 2, lambda *_: None, "matrix" if normed else "block")
    ids = torch.tensor([words(request.text)["input_ids"]])
    at = len(words(request.subject)["input_ids"]) - 1

    def moved(output: Tensor) -> Tensor:
        output = output.clone()
        output.view(ids.shape[1], -1)[at] += value.delta
        return output

    outputs: list[Tensor] = []
    searched = decoder.part("matrix", 2) if normed else decoder.blocks[2]
    with torch.no_grad(), hooked(searched, moved), reading_output(decoder.blocks[2], outputs):
        decoder.model(ids)
    Materializer(decoder.model).set(result.delta)
    with torch.no_grad(), reading_output(decoder.blocks[2], outputs):
        decoder.model(ids)
    wanted, output = outputs[0][0, at], outputs[1][0, at]
    assert (output - wanted).norm() < 1e-4 * max(1.0, wanted.norm().item())
    assert (value.delta.norm() > 0.01) and residuals[1] < 1e-3 * residuals[0]


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "granite"])
def test_several_layers_behind_a_norm_converge(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """The rest after the last layer is only what its norm removes."""
    decoder = own_decoder_of(family)
    moments = {layer: FactoredMoment(random_moment(decoder.anatomy.key_width)) for layer in (1, 2)}
    hparams = MEMIT.with_changes(mom2_update_weight=1e-7)
    result = METHODS["memit"].write(
        EditTask(decoder, words, REQUESTS[:2], moments, hparams, CONTEXTS, silent)
    )
    first, _, last = result.figures[0]["residual_norms"]
    assert last < 0.5 * first


def test_residual_is_split_among_layers(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    """Each layer receives its share of the residual. PMET's split gives the first layer more."""
    decoder = decoder_of("llama")
    moments = {layer: FactoredMoment(random_moment(decoder.anatomy.key_width)) for layer in (1, 2)}
    residuals = {}
    for split in ("even", "sqrt"):
        hparams = MEMIT.with_changes(residual_split=split, mom2_update_weight=1e-7)
        result = METHODS["memit"].write(
            EditTask(decoder, words, REQUESTS, moments, hparams, CONTEXTS, silent)
        )
        assert set(result.delta) == {decoder.anatomy.weight_name(layer) for layer in (1, 2)}
        assert all(factors.rank == len(REQUESTS) for factors in result.delta.values())
        residuals[split] = result.figures[0]["residual_norms"]
    assert len(residuals["even"]) == 3
    assert residuals["even"][0] > residuals["even"][1] > residuals["even"][2]
    assert residuals["sqrt"][1] < residuals["even"][1]


def test_layers_must_be_in_rising_order() -> None:
    for layers in ((2, 1), (1, 1), ()):
        with pytest.raises(InputError, match="rising"):
            METHODS["memit"].layers(MEMIT.with_changes(layers=layers))
