"""Causal tracing against the published loop, in one run, on the starter model."""

import time
from collections.abc import Callable
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

# The plain version is the one that the tests hold the fast one against.
from retcon.tests.helpers.oracles import adding, plain_trace

from .machine import starter

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"
NOISE, SAMPLES, WINDOW = 0.4067346, 10, 10
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")


def run() -> dict[str, Any]:
    """Ratios of times, the largest difference of scores, and the share of what this machine could do at best."""
    decoder, tokenizer = starter()
    question, located = TraceRequest(PROMPT, SUBJECT), locate_subject(tokenizer, PROMPT, SUBJECT)
    corruption = NoiseCorruption(gaussian(NOISE), SAMPLES)

    def traced(*kinds: Kind) -> FactTrace:
        return trace_one(decoder, tokenizer, question, TraceSettings(corruption, kinds, WINDOW))

    traced("hidden")  # the first pass of any kind pays for allocations
    layer_token, head_token = _best_times(decoder)
    figures: dict[str, Any] = {}
    plain_total, differences = 0.0, []
    for kind in KINDS:
        ours, fast = _timed(lambda kind=kind: traced(kind))
        theirs, plain = _timed(lambda kind=kind: _plain(decoder, located, corruption, kind))
        plain_total += theirs
        cells = zip(chain(*fast.scores[kind]), chain(*plain.scores[kind, WINDOW]), strict=True)
        difference = max(
            abs(plain.high - fast.high), abs(plain.low - fast.low), *(abs(a - b) for a, b in cells)
        )
        differences.append(difference)
        layers, heads = needed(decoder.layers, located, kind)
        limit = layers * layer_token + heads * head_token
        figures[kind] = {
            "ratio": theirs / ours,
            "share_of_limit": limit / ours,
            "seconds": ours,
            "plain_seconds": theirs,
            "max_difference": difference,
            "best": max(max(row) for row in fast.scores[kind]),
        }
    together, fast = _timed(lambda: traced(*KINDS))
    preview, _ = _timed(
        lambda: estimate_scores(decoder, run_corrupted(decoder, [located], corruption), KINDS, WINDOW)
    )
    figures["all"] = {"ratio": plain_total / together, "seconds": together, "plain_seconds": plain_total}
    figures["preview"] = {"seconds": preview, "share_of_exact": preview / together}
    figures |= {"high": fast.high, "low": fast.low, "max_difference": max(differences)}
    return {"trace": figures}


def needed(layers: int, fact: LocatedPrompt, kind: Kind) -> tuple[int, int]:
    """Layer-tokens that must be computed at all for one kind of one fact, and tokens through the head.

    For each restored token and variant: every position from it on in every block above the first restored one, of the
    last block the last position only; one position of a window's first block; variants of one first block are one
    until they differ.
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
            # The group's trunk runs to the top; each earlier stop leaves it there and runs to the top as well.
            starts = [first + 1, *stops[:-1]]
            for start in starts:
                block_tokens += SAMPLES * (
                    max(0, layers - 1 - start) * positions + (1 if start < layers else 0)
                )
            block_tokens += SAMPLES if kind in WINDOWED else 0
            head_tokens += SAMPLES * len(stops)
    return block_tokens, head_tokens


def _best_times(decoder: Decoder) -> tuple[float, float]:
    """Seconds for one token through one block, and through the head, in a big batch; the best of several."""
    ids = torch.randint(0, 1000, (200, 10), generator=torch.Generator().manual_seed(0))
    run = decoder.run(ids)
    resumption, rows = decoder.resume(run, 0), torch.arange(200)
    middle = decoder.layers // 2
    hidden = resumption.states_entering(middle, rows)
    with torch.no_grad():
        block = min(_timed(lambda: resumption.step(middle, hidden, rows))[0] for _ in range(8))
        head = min(_timed(lambda: decoder.logits(hidden[:, :2]))[0] for _ in range(4))
    return block / (200 * 10), head / (200 * 2)


def _plain(decoder: Decoder, located: LocatedPrompt, corruption: NoiseCorruption, kind: Kind) -> Any:
    drawn = corruption.noise.draw(
        corruption.samples, located.end - located.begin, decoder.anatomy.width, corruption.seed
    )
    rows = [located.ids] * (1 + corruption.samples)
    return plain_trace(
        decoder.model, decoder.anatomy, rows, adding(drawn.numpy(), located.begin), [(kind, WINDOW)]
    )


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result
