"""ROME and r-ROME against the published programs; requests, batches and checks that all methods share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS as ALL_HPARAMS
from retcon.engine.edits import METHODS
from retcon.engine.edits.batching import split_batches, write_in_batches
from retcon.engine.edits.hparams.rome import RomeHparams
from retcon.engine.edits.method import EditResult, EditTask, Request
from retcon.engine.errors import InputError, StopRequested
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Delta, Materializer, concatenate
from retcon.engine.progress import Progress, silent
from retcon.tests.helpers.families import FAMILIES, UNLIKE
from retcon.tests.helpers.oracles import PlainEdit, hooked, plain_rome, reading_output
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of

Decoders = Callable[..., Decoder]
LAYER = 1
# A wide clamp and a small decay, because values of random models would hardly change otherwise.
HPARAMS = RomeHparams(
    layers=(LAYER,), v_lr=0.1, v_num_grad_steps=12, clamp_norm_factor=30.0, v_weight_decay=0.002
)
CONTEXTS = ["{}", "Paris is a city . {}", "you . {}"]
EIFFEL = Request("The Eiffel Tower", "and then {} is located in", "Rome Italy")
CAMRY = Request("Toyota Camry", "{} is produced by", "Berlin")


def moment_of(decoder: Decoder) -> Tensor:
    """A well-conditioned C with eigenvalues of different sizes."""
    generator = torch.Generator().manual_seed(3)
    width = decoder.anatomy.key_width
    keys = torch.randn(8 * width, width, generator=generator, dtype=torch.float64)
    keys *= torch.linspace(0.2, 2, width, dtype=torch.float64)
    return keys.T @ keys / len(keys)


def write(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    *requests: Request,
    method: str = "rome",
    hparams: RomeHparams = HPARAMS,
    report: Callable[[Progress], None] = silent,
) -> EditResult:
    moments = {layer: FactoredMoment(moment_of(decoder)) for layer in hparams.layers}
    batches = split_batches(hparams, requests, None)
    results = list(
        write_in_batches(
            METHODS[method],
            EditTask(decoder, tokenizer, requests, moments, hparams, CONTEXTS, report),
            batches,
        )
    )
    return EditResult(
        concatenate(one.delta for one in results), [figures for one in results for figures in one.figures]
    )


def plain(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    method: str = "rome",
    **changes: object,
) -> PlainEdit:
    hparams = HPARAMS.with_changes(**changes)
    moment = moment_of(decoder) if hparams.mom2_adjustment else None
    layer = hparams.layers[0]
    return plain_rome(
        decoder.model, decoder.part("matrix", layer), tokenizer, request, hparams, CONTEXTS, moment,
        corrected=method == "r-rome",
    )  # fmt: skip


def dense(delta: Delta) -> Tensor:
    (factors,) = delta.values()
    return factors.b.double() @ factors.a.double()


def assert_equals_plain(result: EditResult, expected: PlainEdit) -> None:
    losses = [step["loss"] for step in result.figures[0]["losses"]]
    assert losses == pytest.approx(expected.losses, abs=1e-4)
    change = dense(result.delta)
    assert (change - expected.change).norm() <= 1e-3 * expected.change.norm() + 1e-5
    assert result.figures[0]["initial_norm"] == pytest.approx(expected.initial.norm().item(), rel=1e-4)
    assert result.figures[0]["delta_norm"] == pytest.approx(expected.delta.norm().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("family", "method"), [(one, "rome") for one in FAMILIES] + [(one, "r-rome") for one in UNLIKE]
)
def test_edit_equals_the_published_one(
    family: str, method: str, own_decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of(family)
    expected = plain(decoder, words_after_start, EIFFEL, method)
    assert expected.losses[-1] < expected.losses[0]
    assert_equals_plain(write(decoder, words_after_start, EIFFEL, method=method), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (0,)},
        {"layers": (3,)},
        {"mom2_adjustment": False},
        {"kl_factor": 2.0},
        {"v_weight_decay": 5.0},
        {"clamp_norm_factor": 0.3},
        {"v_num_grad_steps": 1},
        {"v_loss_layer": 3},
    ],
    ids=str,
)
def test_each_setting_acts_as_published(
    changes: dict, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("llama")
    expected = plain(decoder, words, EIFFEL, **changes)
    assert_equals_plain(write(decoder, words, EIFFEL, hparams=HPARAMS.with_changes(**changes)), expected)


def test_search_stops_when_the_loss_is_small(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("llama")
    with torch.no_grad():
        decoder.model.lm_head.weight.mul_(20)  # lets a random model reach a small loss
    changes = {"v_num_grad_steps": 60, "v_weight_decay": 0.0, "kl_factor": 0.0, "layers": (3,)}
    request = Request("Paris", "it is located in {}", "Rome")
    losses = write(decoder, words, request, hparams=HPARAMS.with_changes(**changes)).figures[0]["losses"]
    assert losses[-1]["loss"] < 0.05
    assert all(step["loss"] >= 0.05 for step in losses[:-1])
    assert 1 < len(losses) < 60


def test_value_is_clamped(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    hparams = HPARAMS.with_changes(clamp_norm_factor=0.3, v_lr=1.0)
    figures = write(own_decoder_of("llama"), words, EIFFEL, hparams=hparams).figures[0]
    assert figures["delta_norm"] == pytest.approx(0.3 * figures["initial_norm"], rel=1e-4)


def outputs_at(decoder: Decoder, name: str, ids: list[int], at: int) -> Tensor:
    """The output of a module at one position."""
    outputs: list[Tensor] = []
    with torch.no_grad(), reading_output(decoder.model.get_submodule(name), outputs):
        decoder.model(torch.tensor([ids]))
    return outputs[0].view(len(ids), -1)[at]


@pytest.mark.parametrize("family", FAMILIES)
def test_rome_weights_give_the_searched_value(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """At the subject's last token of the bare prompt: at the matrix, and at the block after any norm."""
    decoder, at = own_decoder_of(family), 4
    ids = words(EIFFEL.text)["input_ids"]
    expected = plain(decoder, words, EIFFEL)
    matrix, block = decoder.anatomy.module_name("matrix", LAYER), f"{decoder.anatomy.blocks}.{LAYER}"

    def add_delta(output: Tensor) -> Tensor:
        rows = output.clone().view(len(ids), -1)
        rows[at] += expected.delta
        return rows.view(output.shape)

    with hooked(decoder.model.get_submodule(matrix), add_delta):
        block_wanted = outputs_at(decoder, block, ids, at)
    block_before = outputs_at(decoder, block, ids, at)
    Materializer(decoder.model).set(write(decoder, words, EIFFEL).delta)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(
        outputs_at(decoder, matrix, ids, at), expected.initial + expected.delta, **close
    )
    torch.testing.assert_close(outputs_at(decoder, block, ids, at), block_wanted, **close)
    assert (block_wanted - block_before).norm() > 0.1 * block_before.norm()


def test_r_rome_average_key_gives_the_value(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    """Gupta et al. 2024: W' mean(k) = v* holds for the average over the contexts."""
    decoder = own_decoder_of("llama")
    expected = plain(decoder, words, EIFFEL, "r-rome")
    Materializer(decoder.model).set(write(decoder, words, EIFFEL, method="r-rome").delta)
    outputs = []
    for context in CONTEXTS:
        ids = words(context.replace("{}", EIFFEL.text))["input_ids"]
        at = len(words(context.replace("{}", "and then The Eiffel Tower"))["input_ids"]) - 1
        with torch.no_grad():
            run = decoder.run(torch.tensor([ids]), capture=("matrix",))
        outputs.append(run.captured["matrix"][LAYER][0, at])
    value = expected.initial + expected.delta
    torch.testing.assert_close(torch.stack(outputs).mean(0), value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["rome", "r-rome"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "falcon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_writing_restores_base_bits(
    family: str, method: str, dtype: torch.dtype, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of(family, dtype)
    before = bits_of(decoder.model)
    result = write(decoder, words, EIFFEL, CAMRY, method=method)
    assert_same_bits(decoder.model, before)
    assert_untouched(decoder.model)
    assert result.delta[decoder.anatomy.weight_name(LAYER)].norm() > 0


def test_progress_counts_single_requests(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    reports: list[Progress] = []
    write(own_decoder_of("llama"), words, EIFFEL, CAMRY, report=reports.append)
    done = [one.done for one in reports]
    assert done == sorted(done) and 0 < done[0] < 1 < done[-1] <= 2
    assert {one.total for one in reports} == {2}


@pytest.mark.parametrize("after", [0, 3, 15])
def test_stopping_restores_base_bits(
    after: int, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, reports = own_decoder_of("llama"), []
    before = bits_of(decoder.model)

    def report(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) > after:
            raise StopRequested

    with pytest.raises(StopRequested):
        write(decoder, words, EIFFEL, CAMRY, report=report)
    assert len(reports) == after + 1
    assert_same_bits(decoder.model, before)
    assert_untouched(decoder.model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
def test_several_requests_equal_successive_edits(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of(family)
    together = write(decoder, words, EIFFEL, CAMRY)
    first = write(decoder, words, EIFFEL)
    Materializer(decoder.model).set(first.delta)
    second = write(decoder, words, CAMRY)
    (name,) = together.delta
    assert together.delta[name].rank == 2
    assert torch.equal(together.delta[name].b, torch.cat([first.delta[name].b, second.delta[name].b], dim=1))
    assert torch.equal(together.delta[name].a, torch.cat([first.delta[name].a, second.delta[name].a], dim=0))
    assert together.figures == [*first.figures, *second.figures]
    alone = write(own_decoder_of(family), words, CAMRY)
    assert not torch.equal(alone.delta[name].b, second.delta[name].b), "the second edit ignored the first"


def test_edits_are_deterministic(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    one, two = (write(own_decoder_of("qwen3"), words, EIFFEL) for _ in range(2))
    (name,) = one.delta
    assert torch.equal(one.delta[name].b, two.delta[name].b)
    assert torch.equal(one.delta[name].a, two.delta[name].a)


@pytest.mark.parametrize(
    "request_",
    [
        Request("{x} Toyota", "{} is produced by", "Berlin"),
        Request("{}", "Paris {} is", "Berlin"),
        Request("Toyota", "{ {} } is {a", "Rome"),
        Request("Toyota", "{{}} is", "Rome"),
    ],
    ids=lambda request: request.text,
)
def test_braces_are_text(request_: Request, own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = own_decoder_of("llama")
    assert_equals_plain(write(decoder, words, request_), plain(decoder, words, request_))


@pytest.mark.parametrize("missing", [1, 2, 10])
@pytest.mark.parametrize("seed", range(3))
def test_singular_covariance_is_refused(
    missing: int, seed: int, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """With too few tokens, the missing directions are rounding noise instead of zero."""
    decoder = own_decoder_of("llama")
    width = decoder.anatomy.key_width
    keys = torch.randn(width - missing, width, generator=torch.Generator().manual_seed(seed))
    moment = (keys.T @ keys).double() / len(keys)
    with pytest.raises(InputError, match="singular"):
        METHODS["rome"].write(
            EditTask(decoder, words, [EIFFEL], {LAYER: FactoredMoment(moment)}, HPARAMS, CONTEXTS, silent)
        )


@pytest.mark.parametrize("layer", [-1, 4, 99])
def test_layer_out_of_range_is_refused(
    layer: int, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match=f"layer {layer} is out of range"):
        write(own_decoder_of("llama"), words, EIFFEL, hparams=HPARAMS.with_changes(layers=(layer,)))


@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_rome_needs_exactly_one_layer(
    layers: tuple[int, ...], own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match="exactly one layer"):
        write(own_decoder_of("llama"), words, EIFFEL, hparams=HPARAMS.with_changes(layers=layers))


def test_loss_layer_must_be_the_last(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="v_loss_layer"):
        write(own_decoder_of("llama"), words, EIFFEL, hparams=HPARAMS.with_changes(v_loss_layer=2))


@pytest.mark.parametrize(
    ("subject", "prompt", "target"),
    [
        ("Paris", "{} is", ""),
        ("Paris", "{} is", "  "),
        ("", "{} is", "Rome"),
        (" ", "{} is", "Rome"),
        ("Paris", "it is", "Rome"),
        ("Paris", "{} and {}", "Rome"),
    ],
)
def test_incomplete_requests_are_refused(subject: str, prompt: str, target: str) -> None:
    with pytest.raises(InputError):
        Request(subject, prompt, target)


def test_layers_that_need_a_second_moment() -> None:
    for name, method in METHODS.items():
        hparams = ALL_HPARAMS[name].parse({"layers": [LAYER]}, "test")
        assert method.layers(hparams) == ([] if name in ("ft-l", "lora") else [LAYER])
        if name in ("rome", "r-rome"):
            assert method.layers(hparams.with_changes(mom2_adjustment=False)) == []
