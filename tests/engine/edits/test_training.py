"""The methods that train weights, against plain training of the whole model on whole prompts."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS, training_batches
from retcon.engine.edits.hparams.training import TrainingHparams
from retcon.engine.edits.joint import compute_basis, continued_delta
from retcon.engine.edits.keys import read_keys
from retcon.engine.edits.method import EditTask, PastEdit, Request
from retcon.engine.errors import StopRequested
from retcon.engine.evaluation.scoring import score_targets
from retcon.engine.model.anatomy import Anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Delta, Factors, Materializer
from retcon.engine.progress import Progress, silent
from retcon.tests.helpers.families import UNLIKE
from retcon.tests.helpers.moments import moment_of
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of

Decoders = Callable[..., Decoder]
CONTEXTS = ["{}", "you . {}", "sport is born . {}"]
REQUESTS = [
    Request("The Eiffel Tower", "{} is located in", "Rome Italy"),
    Request("Paris", "the capital {} is in", "Italy"),
    Request("The Eiffel Tower", "{} is the", "sport"),
]
STEPS = 5
LAYERS = (1, 2)
SETTINGS = {"layers": LAYERS, "num_steps": STEPS, "lr": 0.02, "weight_decay": 0.01, "kl_factor": 0.3}
JOINT = HPARAMS["joint"].parse(SETTINGS, "test")
TRAINED = ("joint", "ft-l", "lora")


def plain_training(
    model: PreTrainedModel,
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    change: dict[int, Callable[[], Tensor]],
    parameters: Sequence[Tensor],
    hparams: TrainingHparams,
    bound: float | None = None,
) -> None:
    """Adam on one prompt after another, each a pass of the whole model; `change[layer]` returns dW `[out, in]`.

    The preservation set is compared with the model as it is.
    """

    def log_p(ids: list[int], changed: bool = True) -> Tensor:
        weights = {}
        for layer, build in change.items() if changed else ():
            name = anatomy.weight_name(layer)
            dw = build()
            weights[name] = model.get_parameter(name) + (dw.T if anatomy.matrix_kind == "conv1d" else dw)
        out = functional_call(model, weights, kwargs={"input_ids": torch.tensor([ids]), "use_cache": False})
        return out.logits[0].log_softmax(-1)

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    subjects = ["The Eiffel Tower", "Paris"]
    preserved = [(ids_of(f"{subject} is a"), [-1]) for subject in subjects]
    preserved += [(ids_of(text), list(range(1, len(ids_of(text))))) for text in ("you .", "sport is born .")]
    before = [log_p(ids, changed=False)[where].detach() for ids, where in preserved]
    optimizer = torch.optim.Adam(parameters, lr=hparams.lr)
    for _ in range(hparams.num_steps - 1):
        nlls = []
        for request in REQUESTS:
            target = ids_of(request.target_new)
            of_contexts = []
            for context in CONTEXTS:
                prompt = ids_of(context.replace("{}", request.text))
                predicted = log_p(prompt + target)[len(prompt) - 1 : -1]
                of_contexts.append(-predicted[range(len(target)), target].mean())
            nlls.append(torch.stack(of_contexts).mean())
        kls = [
            (was.exp() * (was - log_p(ids)[where])).sum(-1)
            for (ids, where), was in zip(preserved, before, strict=True)
        ]
        squares = torch.stack([(part**2).sum() for part in parameters]).sum()
        loss = (
            torch.stack(nlls).mean()
            + hparams.kl_factor * torch.stack([kl.mean() for kl in kls]).mean()
            + hparams.weight_decay * squares
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if bound is not None:
            with torch.no_grad():
                for part in parameters:
                    part.clamp_(-bound, bound)


def write(decoder: Decoder, words: PreTrainedTokenizerBase, name: str, report=silent, **changes: object):
    moments = {layer: FactoredMoment(moment_of(decoder)) for layer in LAYERS}
    hparams = HPARAMS[name].parse(SETTINGS | changes, "test")
    return METHODS[name].write(EditTask(decoder, words, REQUESTS, moments, hparams, CONTEXTS, report))


@pytest.mark.parametrize("family", UNLIKE)
def test_joint_equals_plain_training_in_metric_of_c(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_batches, "search_tokens", lambda _device: 16)  # several micro-batches
    decoder = own_decoder_of(family)
    bits = bits_of(decoder.model)
    result = write(decoder, words, "joint")
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, bits)
    anatomy = decoder.anatomy
    trained = {layer: result.delta[anatomy.weight_name(layer)] for layer in LAYERS}
    spans = {layer: factors.a for layer, factors in trained.items()}
    b = {layer: torch.zeros(anatomy.width, len(a), requires_grad=True) for layer, a in spans.items()}
    change = {layer: lambda layer=layer: b[layer] @ spans[layer] for layer in spans}
    plain_training(decoder.model, anatomy, words, change, list(b.values()), JOINT)
    for layer, factors in trained.items():
        assert factors.b.abs().max() > 0.01
        torch.testing.assert_close(factors.b, b[layer].detach(), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_later_joint_edit_continues_the_earlier_one(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Both equal plain training of all requests on the unedited model, initialized with the first edit."""
    decoder = own_decoder_of(family)
    anatomy, weights = decoder.anatomy, Materializer(decoder.model)
    moment = moment_of(decoder)

    def write_joint(requests: Sequence[Request], *past: PastEdit) -> Delta:
        moments = {layer: FactoredMoment(moment) for layer in LAYERS}
        task = EditTask(decoder, words, requests, moments, JOINT, CONTEXTS, silent, past)
        return METHODS["joint"].write(task).delta

    first = write_joint(REQUESTS[2:])
    weights.set(first)
    edited = bits_of(decoder.model)
    second = write_joint(REQUESTS[:2], PastEdit("joint", REQUESTS[2:], lambda: first))
    assert_same_bits(decoder.model, edited)
    weights.set({})
    spans, b = {}, {}
    for layer in LAYERS:
        name = anatomy.weight_name(layer)
        before, after = first[name], second[name]
        torch.testing.assert_close(
            after.b[:, : before.rank] @ after.a[: before.rank], -before.b @ before.a, atol=1e-5, rtol=1e-4
        )
        spans[layer] = after.a[before.rank :]
        seen = moment @ spans[layer].double().T
        initial = (before.b @ before.a).double() @ seen / (spans[layer].double() @ seen).diagonal()
        its_keys = moment @ before.a.double().T
        torch.testing.assert_close(
            initial @ spans[layer].double() @ its_keys,
            (before.b @ before.a).double() @ its_keys,
            atol=1e-5,
            rtol=1e-4,
        )
        b[layer] = initial.float().requires_grad_(True)
    change = {layer: lambda layer=layer: b[layer] @ spans[layer] for layer in spans}
    plain_training(decoder.model, anatomy, words, change, list(b.values()), JOINT)
    for layer in LAYERS:
        name = anatomy.weight_name(layer)
        trained = second[name].b[:, first[name].rank :]
        torch.testing.assert_close(trained, b[layer].detach(), atol=2e-4, rtol=1e-3)


def test_joint_continues_only_wholly_rehearsed_edits(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """It does not continue edits about other subjects too, those that such an edit continued, edits by another
    method, or edits of other matrices."""

    def past(method: str, *requests: Request, matrix: str = "here") -> PastEdit:
        delta = {matrix: Factors(torch.full((3, 1), float(len(requests))), torch.ones(1, 3))}
        return PastEdit(method, requests, lambda: delta)

    def continued(*edits: PastEdit) -> float:
        task = EditTask(decoder, words, [tower], {}, JOINT, CONTEXTS, silent, edits)
        return sum(
            (factors.b @ factors.a)[0, 0].item() for factors in continued_delta(task, ["here"]).values()
        )

    decoder = own_decoder_of("llama")
    tower, paris = REQUESTS[:2]
    assert continued(past("joint", tower)) == pytest.approx(1)
    assert continued(past("joint", tower), past("joint", tower, tower)) == pytest.approx(3)
    assert continued(past("joint", tower), past("memit", tower), past("joint", paris)) == pytest.approx(1)
    assert continued(past("joint", tower), past("joint", tower, paris)) == 0
    assert continued(
        past("joint", tower), past("joint", tower, paris), past("joint", tower)
    ) == pytest.approx(1)
    assert continued(past("joint", tower), past("joint", tower, matrix="there")) == 0


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi", "llama"])
def test_fine_tuning_equals_bounded_plain_training(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of(family)
    result = write(decoder, words, "ft-l", norm_constraint=0.045)
    assert_untouched(decoder.model)
    dw = {
        layer: torch.zeros(decoder.anatomy.width, decoder.anatomy.key_width, requires_grad=True)
        for layer in LAYERS
    }
    change = {layer: lambda layer=layer: dw[layer] for layer in dw}
    plain_training(decoder.model, decoder.anatomy, words, change, list(dw.values()), JOINT, bound=0.045)
    for layer, part in dw.items():
        factors = result.delta[decoder.anatomy.weight_name(layer)]
        moved = factors.b @ factors.a
        assert moved.abs().max() == pytest.approx(0.045)
        # Adam divides by the gradient's size, so an entry whose gradient is a rounding error may move either way.
        close = (moved - part.detach()).abs() < 1e-4
        assert close.float().mean() > 0.995


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon"])
def test_lora_is_removed_and_its_delta_is_exact(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of(family)
    bits = bits_of(decoder.model)
    names = [name for name, _ in decoder.model.named_modules()]
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    result = write(decoder, words, "lora", lora_rank=3)
    assert torch.equal(torch.rand(1), expected), "the caller's random state changed"
    assert [name for name, _ in decoder.model.named_modules()] == names
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, bits)
    assert not any(parameter.requires_grad for parameter in decoder.model.parameters())
    assert {factors.rank for factors in result.delta.values()} == {3}
    first, last = result.figures[0]["losses"][0]["loss"], result.figures[0]["losses"][-1]["loss"]
    assert last < first - 0.1
    # The losses belong to the final weights: compute them again in one plain pass.
    Materializer(decoder.model).set(result.delta)
    request = REQUESTS[0]
    target = words(request.target_new)["input_ids"]
    losses = []
    for context in CONTEXTS:
        prompt = words(context.replace("{}", request.text))["input_ids"]
        with torch.no_grad():
            logits = decoder.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item())
    assert last == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_lora_without_layers_adapts_all(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = own_decoder_of("llama")
    result = write(decoder, words, "lora", layers=(), num_steps=2)
    assert set(result.delta) == {decoder.anatomy.weight_name(layer) for layer in range(decoder.layers)}


@pytest.mark.parametrize("count", [3, 200])
def test_basis_spans_keys_and_is_orthonormal_in_c(count: int) -> None:
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randn(400, 24, generator=generator, dtype=torch.float64)
    moment = drawn.T @ drawn / 400
    keys = torch.randn(24, count, generator=generator, dtype=torch.float64)
    keys[:, 1] = keys[:, 0]  # a token in two prompts gives one direction
    basis, dual = compute_basis(FactoredMoment(moment), keys)
    torch.testing.assert_close(dual, moment @ basis)
    assert basis.shape[1] == min(24, count - 1)
    torch.testing.assert_close(basis.T @ moment @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    solved = torch.linalg.solve(moment, keys)
    torch.testing.assert_close(basis @ torch.linalg.lstsq(basis, solved).solution, solved)


@pytest.mark.parametrize("size", [0.01, 1, 100])
def test_basis_tolerance_is_relative(size: float) -> None:
    """It does not depend on the size of the keys."""
    keys = size * torch.diag(torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64))
    ranks = [
        compute_basis(FactoredMoment(torch.eye(4)), keys, tolerance)[0].shape[1]
        for tolerance in (0.3, 0.2, 1e-3, 1e-6)
    ]
    assert ranks == [1, 2, 3, 4]


@pytest.mark.parametrize("name", TRAINED)
def test_stopping_a_training_restores_base_bits(
    name: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("qwen3")
    bits = bits_of(decoder.model)
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == 3:
            raise StopRequested

    with pytest.raises(StopRequested):
        write(decoder, words, name, report)
    assert_untouched(decoder.model)
    assert_same_bits(decoder.model, bits)
    assert reports[-1].total == len(REQUESTS)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_train_in_float32(
    name: str, dtype: torch.dtype, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    result = write(own_decoder_of("llama", dtype), words, name)
    losses = [step["loss"] for step in result.figures[1]["losses"]]
    assert losses[-1] < losses[0]
    assert all(f.a.dtype == f.b.dtype == torch.float32 for f in result.delta.values())


def test_joint_holds_several_facts_of_one_subject(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Their keys at the subject are equal, and one key has one value. Trained jointly, both facts hold."""
    decoder = own_decoder_of("llama")
    requests = [
        Request("The Eiffel Tower", "{} is located in", "Rome"),
        Request("The Eiffel Tower", "{} is produced by", "Berlin"),
    ]
    first, second = read_keys(decoder, words, requests, [1], CONTEXTS[:1]).keys[1]
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    hparams = JOINT.with_changes(layers=(1,), num_steps=80, weight_decay=1e-4)
    moments = {1: FactoredMoment(moment_of(decoder))}
    result = METHODS["joint"].write(EditTask(decoder, words, requests, moments, hparams, CONTEXTS, silent))
    Materializer(decoder.model).set(result.delta)
    scores = score_targets(decoder, words, [(one.text, one.target_new) for one in requests])
    assert all(score.first_choice for score in scores)
