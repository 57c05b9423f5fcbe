"""Suggest layers to edit from a trace's average effects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engine.jobs.settings import save_preset
from ...store.catalog.tables import AverageEffect, Trace, TraceResult
from ...store.errors import InputError
from ...store.home import Home

_ROLE = "last subject"
_SUGGESTED = 3
# Fewer facts than this give a wide interval.
_FEW_FACTS = 30


@dataclass(frozen=True)
class Location:
    """The suggested layers, best first, and the curve of indirect effects that they were read from.

    `count` and `skipped` are numbers of facts, `total_effect` is the mean of p(clean) - p(corrupted), and `notes` are
    sentences about the limits of the suggestion.
    """

    kind: str
    role: str
    layers: list[int]
    curve: list[AverageEffect]
    count: int
    skipped: int
    total_effect: float
    notes: list[str]


def suggest_layers(
    trace: Trace, results: Sequence[TraceResult], effects: Sequence[AverageEffect], layers: int
) -> Location:
    """Suggest the layers with the highest indirect effect of the MLP (else the hidden state) at the last subject token.

    `layers` is the number of layers of the model.

    Raises:
        InputError: no fact was traced, or only severed kinds were.
    """
    traced = [result for result in results if result.skip_reason is None and result.is_complete]
    if not traced:
        raise InputError(f"no fact of trace {trace.id} was traced; see retcon trace show {trace.id}")
    kind = next((kind for kind in ("mlp", "hidden", "attn") if kind in trace.kinds), None)
    if kind is None:
        raise InputError(
            f"trace {trace.id} has only severed kinds: trace mlp or hidden to get suggested layers"
        )
    curve = sorted(
        (effect for effect in effects if effect.kind == kind and effect.role == _ROLE),
        key=lambda effect: effect.layer,
    )
    if not curve:
        raise InputError(f"trace {trace.id} has no effects at the last subject token yet: wait for its job")
    peak = max(curve, key=lambda effect: effect.mean)
    # Layers whose mean lies inside the peak's interval cannot be distinguished from the peak.
    near = [effect.layer for effect in curve if effect.mean >= peak.low and effect.count > 1]
    suggested = sorted(near, key=lambda layer: -curve[layer].mean)[:_SUGGESTED] or [peak.layer]
    total = sum((result.high or 0.0) - (result.low or 0.0) for result in traced) / len(traced)
    skipped = sum(result.skip_reason is not None for result in results)
    notes = _notes(trace, kind, layers, len(traced))
    return Location(kind, _ROLE, suggested, curve, len(traced), skipped, total, notes)


def save_layer(home: Home, model: str, trace: int, location: Location) -> Path:
    """Save the first suggested layer as the model's preset; returns its file."""
    source = f"retcon trace locate {trace}: peak of the {location.kind} effect over {location.count} facts"
    return save_preset(home, model, "rome", {"layers": location.layers[:1]}, source)


def _notes(trace: Trace, kind: str, layers: int, facts: int) -> list[str]:
    notes = [
        "The peak of a trace does not by itself predict the best layer to edit (Hase et al. 2023). "
        "Try the edit at this layer and at its neighbors, and compare the evaluations."
    ]
    if kind != "hidden" and trace.window * 4 > layers:
        notes.append(
            f"A window of {trace.window} layers in a model of {layers} layers does not identify a single layer. "
            "Use a smaller --window."
        )
    if facts < _FEW_FACTS:
        few = "One fact is not evidence." if facts == 1 else f"{facts} facts give a wide interval."
        notes.append(f"{few} Trace a set of facts (--facts) to get an average with an interval.")
    return notes
