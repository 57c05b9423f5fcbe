"""Causal tracing compared with the published loop, in one run, on the starter model.

SAMPLES=10 make bench BENCH=trace
"""

import os
from itertools import chain
from typing import Any

import torch

from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import LocatedPrompt, locate_subject
from retcon.engine.tracing.attribution import estimate_scores
from retcon.engine.tracing.corruption import NoiseCorruption, run_corrupted
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.rules import WINDOWED, Kind, window_blocks
from retcon.engine.tracing.trace import FactTrace, TraceRequest, TraceSettings, trace_one

# The tests compare the trace with the same plain version.
from retcon.tests.helpers.oracles import adding, plain_trace

from .machine import load_starter, time_call

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"
NOISE, WINDOW = 0.4067346, 10
SAMPLES = int(os.environ.get("SAMPLES", "10"))
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")


def run() -> dict[str, Any]:
    """Ratios of times, the largest difference of scores, and the share of the machine's limit."""
    decoder, tokenizer = load_starter()
    request, located = TraceRequest(PROMPT, SUBJECT), locate_subject(tokenizer, PROMPT, SUBJECT)
    corruption = NoiseCorruption(gaussian(NOISE), SAMPLES)

    def trace_kinds(*kinds: Kind) -> FactTrace:
        return trace_one(decoder, tokenizer, request, TraceSettings(corruption, kinds, WINDOW))

    trace_kinds("hidden")  # The first pass allocates memory.
    layer_token, head_token = _measure_limits(decoder)
    figures: dict[str, Any] = {}
    for kind in KINDS:
        seconds, result = time_call(lambda kind=kind: trace_kinds(kind))
        plain_seconds, plain = time_call(lambda kind=kind: _trace_plainly(decoder, located, corruption, kind))
        layers, heads = count_needed_tokens(decoder.layers, located, kind)
        figures[kind] = {
            "ratio": plain_seconds / seconds,
            "share_of_limit": (layers * layer_token + heads * head_token) / seconds,
            "seconds": seconds,
            "plain_seconds": plain_seconds,
            "max_difference": _max_difference(result, plain, kind),
            "best": max(max(row) for row in result.scores[kind]),
        }
    plain_total = sum(figures[kind]["plain_seconds"] for kind in KINDS)
    max_difference = max(figures[kind]["max_difference"] for kind in KINDS)
    together, result = time_call(lambda: trace_kinds(*KINDS))
    estimate, _ = time_call(
        lambda: estimate_scores(decoder, run_corrupted(decoder, [located], corruption), KINDS, WINDOW)
    )
    figures["all"] = {"ratio": plain_total / together, "seconds": together, "plain_seconds": plain_total}
    figures["preview"] = {"seconds": estimate, "share_of_exact": estimate / together}
    figures |= {"high": result.high, "low": result.low, "max_difference": max_difference}
    return {"trace": figures}


def count_needed_tokens(layers: int, fact: LocatedPrompt, kind: Kind) -> tuple[int, int]:
    """The least tokens that a trace of one fact must compute: tokens times blocks, and tokens of the head.

    For each restored token and sample, a trace needs all positions from the token on, in each block above the first
    restored block. Of the last block it needs the last position. Of the first block of a window it needs one position.
    Windows with the same first block share their states until the shorter window stops.
    """
    block_tokens = head_tokens = 0
    for token in range(fact.begin, len(fact.ids)):
        positions = len(fact.ids) - token
        if kind in WINDOWED:
            windows = [window_blocks(layer, WINDOW, layers) for layer in range(layers)]
        else:
            windows = [(layer, layer + 1) for layer in range(layers - 1)]
        for first in {first for first, _ in windows}:
            stops = sorted({stop for start, stop in windows if start == first})
            # The longest window runs to the top. Each shorter window branches off where it stops.
            starts = [first + 1, *stops[:-1]]
            for start in starts:
                block_tokens += SAMPLES * (
                    max(0, layers - 1 - start) * positions + (1 if start < layers else 0)
                )
            block_tokens += SAMPLES if kind in WINDOWED else 0
            head_tokens += SAMPLES * len(stops)
    return block_tokens, head_tokens


def _measure_limits(decoder: Decoder) -> tuple[float, float]:
    """Seconds per token of one block, and of the head, in a large batch. The best of several runs."""
    ids = torch.randint(0, 1000, (200, 10), generator=torch.Generator().manual_seed(0))
    run = decoder.run(ids)
    resumption, rows = decoder.resume(run, 0), torch.arange(200)
    middle = decoder.layers // 2
    hidden = resumption.states_entering(middle, rows)
    with torch.no_grad():
        block, _ = time_call(lambda: resumption.step(middle, hidden, rows), 8)
        head, _ = time_call(lambda: decoder.logits(hidden[:, :2]), 4)
    return block / (200 * 10), head / (200 * 2)


def _trace_plainly(decoder: Decoder, located: LocatedPrompt, corruption: NoiseCorruption, kind: Kind) -> Any:
    noise = corruption.noise.draw(
        corruption.samples, located.end - located.begin, decoder.anatomy.width, corruption.seed
    )
    rows = [located.ids] * (1 + corruption.samples)
    return plain_trace(
        decoder.model, decoder.anatomy, rows, adding(noise.numpy(), located.begin), [(kind, WINDOW)]
    )


def _max_difference(result: FactTrace, plain: Any, kind: Kind) -> float:
    """The largest difference of a probability in any cell, and of `high` and `low`."""
    cells = zip(chain(*result.scores[kind]), chain(*plain.scores[kind, WINDOW]), strict=True)
    ends = (abs(plain.high - result.high), abs(plain.low - result.low))
    return max(*ends, *(abs(a - b) for a, b in cells))
