"""Tracing on a GPU compared with the published loop: a random model of Phi-1.5's shape, 50 prompts, all kinds."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerBase

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import locate_subject
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.rules import Kind
from retcon.engine.tracing.trace import TraceRequest, TraceSettings, trace
from retcon.tests.helpers.oracles import adding, plain_trace

from .machine import load_starter

KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")
SAMPLES, WINDOW, FACTS = 10, 10, 1208
_SUBJECTS = ("The Eiffel Tower", "Vinson Massif", "Big Ben", "The Space Needle", "Mount Kilimanjaro")
_RELATIONS = (
    "is located in the city of", "was built in the year", "is best known for", "belongs to the", "stands next to the",
    "is in the country of", "was named after", "is visited by people from", "is part of the", "is owned by",
)  # fmt: skip


def run() -> dict[str, Any]:
    """The ratio of seconds per fact, and the projection for 1208 facts."""
    if not torch.cuda.is_available():
        return {"gpu": {"skipped": "needs a CUDA device"}}
    _, tokenizer = load_starter()
    torch.manual_seed(0)
    config = PhiConfig(hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, intermediate_size=8192)
    model = PhiForCausalLM(config).half().cuda()
    decoder = Decoder(model, find_anatomy(model))
    corruption = NoiseCorruption(gaussian(0.1), SAMPLES)
    requests = [
        TraceRequest(f"{subject} {relation}", subject)
        for subject, relation in itertools.product(_SUBJECTS, _RELATIONS)
    ]
    settings = TraceSettings(corruption, KINDS, WINDOW)
    list(trace(decoder, tokenizer, requests[:2], settings))
    seconds = _time_on_gpu(lambda: list(trace(decoder, tokenizer, requests, settings))) / len(requests)
    plain_seconds = _time_on_gpu(lambda: _trace_plainly(decoder, tokenizer, requests[0], corruption))
    return {
        "gpu": {
            "ratio": plain_seconds / seconds,
            "seconds_per_fact": seconds,
            "plain_seconds_per_fact": plain_seconds,
            "projected_minutes_for_1208_facts": FACTS * seconds / 60,
            "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6,
        }
    }


def _trace_plainly(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, request: TraceRequest, corruption: NoiseCorruption
) -> None:
    located = locate_subject(tokenizer, request.prompt, request.subject)
    noise = corruption.noise.draw(
        SAMPLES, located.end - located.begin, decoder.anatomy.width, corruption.seed
    )
    rows = [located.ids] * (1 + SAMPLES)
    with torch.device("cuda"):
        plain_trace(
            decoder.model,
            decoder.anatomy,
            rows,
            adding(noise.numpy(), located.begin),
            [(kind, WINDOW) for kind in KINDS],
        )


def _time_on_gpu(function: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - began
