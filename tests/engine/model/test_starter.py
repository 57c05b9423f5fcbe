"""The starter, a real model. Its trace is compared with scores of the published loop that were measured once."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.generation import answer
from retcon.engine.model.loading import (
    STARTER_PACKAGE,
    fetch,
    fingerprint,
    hash_parameters,
    load_model,
    load_tokenizer,
)
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.trace import FactTrace, TraceRequest, TraceSettings, trace_one

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(
        importlib.util.find_spec(STARTER_PACKAGE) is None, reason="the starter is not installed"
    ),
]
PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"


@pytest.fixture(scope="session")
def starter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch("starter", tmp_path_factory.mktemp("models") / "starter").folder


@pytest.fixture(scope="session")
def starter(starter_folder: Path) -> Decoder:
    model = load_model(starter_folder, "cpu")
    return Decoder(model, find_anatomy(model))


@pytest.fixture(scope="session")
def tokenizer(starter_folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(starter_folder)


@pytest.fixture(scope="session")
def trace_result(starter: Decoder, tokenizer: PreTrainedTokenizerBase) -> FactTrace:
    # The attention is left out: its windows work like those of the MLP and take a third of the time.
    settings = TraceSettings(NoiseCorruption(gaussian(0.4067346)), kinds=("hidden", "mlp"))
    return trace_one(starter, tokenizer, TraceRequest(PROMPT, SUBJECT, "Paris"), settings)


def test_anatomy_of_the_starter(starter: Decoder) -> None:
    anatomy = starter.anatomy
    assert (anatomy.architecture, anatomy.layers, anatomy.width) == ("LlamaForCausalLM", 30, 576)
    assert (anatomy.key_width, anatomy.tied_head, anatomy.parallel) == (1536, True, False)
    assert anatomy.weight_name(5) == "model.layers.5.mlp.down_proj.weight"
    assert {parameter.dtype for parameter in starter.model.parameters()} == {torch.float32}


def test_second_conversion_is_skipped(starter_folder: Path, starter: Decoder) -> None:
    weights = starter_folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert fetch("starter", starter_folder).folder == starter_folder
    assert weights.stat().st_mtime_ns == before
    again = load_model(starter_folder, "cpu")
    assert fingerprint(hash_parameters(again)) == fingerprint(hash_parameters(starter.model))


@pytest.mark.parametrize(
    ("prompt", "token", "probability"),
    [
        (PROMPT, " Paris", 0.70),
        ("The capital of France is", " Paris", 0.77),
        ("Toyota Camry is produced by", " Toyota", 0.58),
        ("The mother tongue of Danielle Darrieux is", " French", 0.19),
    ],
)
def test_completes_known_facts(
    prompt: str, token: str, probability: float, starter: Decoder, tokenizer: PreTrainedTokenizerBase
) -> None:
    first = answer(starter.model, tokenizer, prompt, max_new_tokens=1).next[0]
    assert first.token == token
    assert first.probability == pytest.approx(probability, abs=0.006)


def test_clean_and_corrupted_probabilities(trace_result: FactTrace) -> None:
    assert trace_result.answer == " Paris"
    assert (trace_result.located.begin, trace_result.located.end) == (0, 4)
    assert trace_result.high == pytest.approx(0.70155, abs=2e-5)
    assert trace_result.low == pytest.approx(0.014292, abs=2e-5)


@pytest.mark.parametrize(("kind", "highest"), [("hidden", 0.761985), ("mlp", 0.261857)])
def test_highest_restored_score(kind: str, highest: float, trace_result: FactTrace) -> None:
    scores = torch.tensor(trace_result.scores[kind])
    assert scores.shape == (len(trace_result.located.ids), 30)
    assert scores.max().item() == pytest.approx(highest, abs=2e-5)
