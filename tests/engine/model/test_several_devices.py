"""A model with blocks on several devices gives the results of the same model on one device.

Without two GPUs, all parts are on the CPU, with the hooks that accelerate uses for several devices.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from accelerate import dispatch_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.evaluation.scoring import score_targets
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.loading import split_over_devices
from retcon.engine.progress import silent
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.trace import TraceRequest, TraceSettings, trace_one
from retcon.tests.helpers.families import tiny_model

PROMPT, SUBJECT = "in Paris The Eiffel Tower is located in", "The Eiffel Tower"
SEARCH = {"layers": [1], "v_num_grad_steps": 4, "v_lr": 0.05, "contexts": 0}
TRAINING = {"layers": [1], "num_steps": 3, "kl_factor": 0.0625, "weight_decay": 0.1, "lr": 1e-3}


def hooked_model(decoder: Decoder) -> PreTrainedModel:
    """The same model on one device, with hooks on every part."""
    model = copy.deepcopy(decoder.model)
    anatomy = decoder.anatomy
    device_map = {
        name: "cpu" for name, module in model.named_modules() if not list(module.children()) and name
    }
    device_map |= {f"{anatomy.blocks}.{layer}": "cpu" for layer in range(anatomy.layers)}
    block_names = tuple(f"{anatomy.blocks}.{layer}" for layer in range(anatomy.layers))
    device_map = {
        name: device
        for name, device in device_map.items()
        if name in block_names or not name.startswith(anatomy.blocks)
    }
    dispatched: PreTrainedModel = dispatch_model(model, device_map, main_device="cpu", force_hooks=True)
    return dispatched


def assert_same_results(
    one: Decoder, other: Decoder, words: PreTrainedTokenizerBase, tolerance: float
) -> None:
    settings = TraceSettings(
        NoiseCorruption(gaussian(0.3), 3), ("hidden", "mlp", "attn", "severed-mlp"), window=3
    )
    first, second = (
        trace_one(decoder, words, TraceRequest(PROMPT, SUBJECT), settings) for decoder in (one, other)
    )
    assert first.answer == second.answer
    for kind in settings.kinds:
        torch.testing.assert_close(
            torch.tensor(second.scores[kind]), torch.tensor(first.scores[kind]), atol=tolerance, rtol=0
        )
    width = one.anatomy.key_width
    keys = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    request = Request(SUBJECT, "{} is located in", "Rome")
    for method in ("r-rome", "memit", "joint", "ft-l", "lora"):
        hparams = HPARAMS[method].parse(SEARCH if method in ("r-rome", "memit") else TRAINING, "test")
        results = [
            METHODS[method].write(
                EditTask(
                    decoder,
                    words,
                    [request],
                    {1: FactoredMoment(keys.T @ keys / len(keys))},
                    hparams,
                    ["{}"],
                    silent,
                )
            )
            for decoder in (one, other)
        ]
        for name, factors in results[0].delta.items():
            expected = factors.b @ factors.a
            actual = results[1].delta[name].b @ results[1].delta[name].a
            assert (actual - expected).norm() <= tolerance * expected.norm(), (method, name)
    targets = [(PROMPT, "Paris"), ("Berlin is in", "Italy")]
    assert [score.nll for score in score_targets(other, words, targets)] == pytest.approx(
        [score.nll for score in score_targets(one, words, targets)], abs=tolerance
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "gemma2", "bloom"])
def test_hooked_model_equals_plain_model(
    family: str, decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    one = decoder_of(family)
    model = hooked_model(one)
    assert hasattr(model.get_submodule(f"{one.anatomy.blocks}.1"), "_hf_hook")
    assert_same_results(one, Decoder(model, one.anatomy), words, 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("family", ["gpt2", "llama", "phi", "gemma2", "bloom"])
def test_two_gpus_equal_one(
    family: str, decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    one = decoder_of(family)
    model = split_over_devices(copy.deepcopy(tiny_model(family)), ["cuda:0", "cuda:1"])
    device_map = {str(parameter.device) for parameter in model.parameters()}
    assert device_map == {"cuda:0", "cuda:1"}
    assert_same_results(one, Decoder(model, one.anatomy), words, 1e-3)
