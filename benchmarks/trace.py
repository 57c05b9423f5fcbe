"""Causal tracing against the published loop, in one run, on the starter model."""

import time
from typing import Any

import plain
from machine import starter
from retcon.engine.tokens import locate_subject
from retcon.engine.trace import TraceSettings, trace_fact

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"
NOISE = 0.4067346


def run() -> dict[str, Any]:
    """Ratio of times and largest difference of scores, per kind."""
    decoder, tokenizer = starter()
    located = locate_subject(tokenizer, PROMPT, SUBJECT)
    trace_fact(decoder, tokenizer, PROMPT, SUBJECT, TraceSettings(NOISE, ("hidden",), samples=2))  # warm up
    figures: dict[str, Any] = {}
    differences = []
    for kind in ("hidden",):
        settings = TraceSettings(NOISE, (kind,))
        began = time.perf_counter()
        fast = trace_fact(decoder, tokenizer, PROMPT, SUBJECT, settings)
        ours = time.perf_counter() - began
        began = time.perf_counter()
        high, low, scores = plain.trace(decoder, located, kind, settings)
        theirs = time.perf_counter() - began
        cells = zip(sum(fast.scores[kind], []), sum(scores, []), strict=True)
        difference = max(abs(high - fast.high), abs(low - fast.low), *(abs(a - b) for a, b in cells))
        differences.append(difference)
        figures[kind] = {
            "ratio": theirs / ours,
            "seconds": ours,
            "plain_seconds": theirs,
            "max_difference": difference,
            "high": fast.high,
            "low": fast.low,
            "best": max(max(row) for row in fast.scores[kind]),
        }
    return {"trace": figures | {"max_difference": max(differences), "prompt": PROMPT, "samples": 10}}
