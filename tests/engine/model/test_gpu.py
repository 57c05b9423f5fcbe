"""Trace, evaluation and edit give the same numbers on a GPU as on the CPU."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import METHODS
from retcon.engine.edits.hparams.rome import RomeHparams
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.evaluation.cases import Case, Neighbor
from retcon.engine.evaluation.drift import measure_drift
from retcon.engine.evaluation.run import EvaluationSettings, TextSampling, evaluate_blocks
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Materializer
from retcon.engine.progress import silent
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.trace import TraceRequest, TraceSettings, trace_one
from retcon.tests.helpers.families import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]

PROMPT, SUBJECT = "in Paris The Eiffel Tower is located in", "The Eiffel Tower"


@pytest.fixture(params=["gpt2", "llama", "phi", "gemma2", "bloom"])
def pair(request: pytest.FixtureRequest, decoder_of: Callable[[str], Decoder]) -> tuple[Decoder, Decoder]:
    """One family's decoder on the CPU and on the GPU."""
    on_cpu = decoder_of(request.param)
    return on_cpu, Decoder(copy.deepcopy(tiny_model(request.param)).to("cuda"), on_cpu.anatomy)


def test_trace_equals_cpu(pair: tuple[Decoder, Decoder], words: PreTrainedTokenizerBase) -> None:
    settings = TraceSettings(
        NoiseCorruption(gaussian(0.3), 3), ("hidden", "mlp", "attn", "severed-mlp"), window=3
    )
    here, there = (trace_one(decoder, words, TraceRequest(PROMPT, SUBJECT), settings) for decoder in pair)
    assert here.answer == there.answer
    for kind in settings.kinds:
        torch.testing.assert_close(
            torch.tensor(there.scores[kind]), torch.tensor(here.scores[kind]), atol=1e-4, rtol=0
        )


def test_evaluation_equals_cpu(pair: tuple[Decoder, Decoder], words: PreTrainedTokenizerBase) -> None:
    case = Case(PROMPT, "Rome", "Paris", (SUBJECT,), (Neighbor("Berlin is in", "Italy"),), negations=(PROMPT,),
                generation_prompts=(SUBJECT,))  # fmt: skip
    questions = EvaluationSettings(3, nullcontext, TextSampling(seed=1))
    here, there = (next(evaluate_blocks(decoder, words, [case], questions))[0].metrics() for decoder in pair)
    # Each device samples with its own generator.
    assert there.pop("GE") > 0 and here.pop("GE") > 0
    assert there == pytest.approx(here, abs=1e-4)
    drifts = [
        measure_drift(decoder, words, "held-out", nullcontext, perplexity=True, report=silent).metrics(1)
        for decoder in pair
    ]
    assert drifts[1]["PPL"].value == pytest.approx(drifts[0]["PPL"].value, rel=1e-4)


def test_edit_equals_cpu(pair: tuple[Decoder, Decoder], words: PreTrainedTokenizerBase) -> None:
    hparams = RomeHparams(layers=(1,), v_num_grad_steps=4)
    moment = torch.eye(pair[0].anatomy.key_width, dtype=torch.float64)
    request = Request("The Eiffel Tower", "{} is located in", "Rome")
    deltas = [
        METHODS["rome"]
        .write(EditTask(decoder, words, [request], {1: FactoredMoment(moment)}, hparams, ["{}"], silent))
        .delta
        for decoder in pair
    ]
    name = pair[0].anatomy.weight_name(1)
    here, there = (delta[name].b @ delta[name].a for delta in deltas)
    torch.testing.assert_close(there, here, atol=1e-3 * here.abs().max().item(), rtol=0)
    # Weights are computed on the CPU, so they have the same bits on every device.
    written = []
    for decoder in pair:
        model = copy.deepcopy(decoder.model)
        Materializer(model).set(deltas[0])
        written.append(model.get_parameter(name).detach().cpu())
    assert torch.equal(*written)
