"""Tracing on a GPU: a random model of Phi-1.5's shape, 50 prompts, all kinds, against the published loop."""

import itertools
import time
from typing import Any

import torch
from transformers import PhiConfig, PhiForCausalLM

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import locate_subject
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.rules import Kind
from retcon.engine.tracing.trace import TraceRequest, TraceSettings, trace
from retcon.tests.helpers.oracles import adding, plain_trace

from .machine import starter

KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")
SAMPLES, WINDOW, FACTS = 10, 10, 1208
_SUBJECTS = ("The Eiffel Tower", "Vinson Massif", "Big Ben", "The Space Needle", "Mount Kilimanjaro")
_RELATIONS = (
    "is located in the city of", "was built in the year", "is best known for", "belongs to the", "stands next to the",
    "is in the country of", "was named after", "is visited by people from", "is part of the", "is owned by",
)  # fmt: skip


def run() -> dict[str, Any]:
    """Ratio of seconds a fact, and the projection for 1208 facts."""
    if not torch.cuda.is_available():
        return {"gpu": {"skipped": "needs a CUDA device; there is none here"}}
    _, tokenizer = starter()
    torch.manual_seed(0)
    config = PhiConfig(hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, intermediate_size=8192)
    model = PhiForCausalLM(config).half().cuda()
    decoder = Decoder(model, find_anatomy(model))
    corruption = NoiseCorruption(gaussian(0.1), SAMPLES)
    questions = [TraceRequest(f"{s} {r}", s) for s, r in itertools.product(_SUBJECTS, _RELATIONS)]
    settings = TraceSettings(corruption, KINDS, WINDOW)
    list(trace(decoder, tokenizer, questions[:2], settings))
    ours = _seconds(lambda: list(trace(decoder, tokenizer, questions, settings))) / len(questions)
    theirs = _seconds(lambda: _plain(decoder, tokenizer, questions[0], corruption))
    return {
        "gpu": {
            "ratio": theirs / ours,
            "seconds_per_fact": ours,
            "plain_seconds_per_fact": theirs,
            "projected_minutes_for_1208_facts": FACTS * ours / 60,
            "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6,
        }
    }


def _plain(decoder: Decoder, tokenizer: Any, question: TraceRequest, corruption: NoiseCorruption) -> None:
    located = locate_subject(tokenizer, question.prompt, question.subject)
    drawn = corruption.noise.draw(
        SAMPLES, located.end - located.begin, decoder.anatomy.width, corruption.seed
    )
    rows = [located.ids] * (1 + SAMPLES)
    with torch.device("cuda"):
        plain_trace(
            decoder.model,
            decoder.anatomy,
            rows,
            adding(drawn.numpy(), located.begin),
            [(k, WINDOW) for k in KINDS],
        )


def _seconds(work: Any) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began
