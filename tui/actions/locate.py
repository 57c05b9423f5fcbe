"""What a trace says about the layer to edit, and what it does not say."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...store.catalog.tables import AverageEffect, Trace, TraceResult
from ...store.errors import InputError

_ROLE = "last subject"


@dataclass(frozen=True)
class Location:
    """Layers that a trace proposes, best first, with the curve they were read from and what to keep in mind."""

    kind: str
    role: str
    layers: list[int]
    curve: list[AverageEffect]
    count: int
    skipped: int
    total_effect: float
    notes: list[str]


def locate(
    trace: Trace, results: Sequence[TraceResult], effects: Sequence[AverageEffect], layers: int
) -> Location:
    """The layer at which restoring the MLP (else the hidden state) at the last subject token wins back most.

    Raises:
        InputError: no fact of the trace was traced, or only severed kinds were.
    """
    traced = [result for result in results if result.skip_reason is None and result.is_complete]
    if not traced:
        raise InputError(
            f"trace {trace.id} says nothing: no fact of it was traced; see retcon trace show {trace.id}"
        )
    kind = next((kind for kind in ("mlp", "hidden", "attn") if kind in trace.kinds), None)
    if kind is None:
        raise InputError(
            f"trace {trace.id} has severed kinds only: trace mlp or hidden to have layers proposed"
        )
    curve = sorted(
        (effect for effect in effects if effect.kind == kind and effect.role == _ROLE),
        key=lambda effect: effect.layer,
    )
    if not curve:
        raise InputError(f"trace {trace.id} has no effects at the last subject token yet; wait for its job")
    peak = max(curve, key=lambda effect: effect.mean)
    # Layers that the data does not tell from the peak: their mean lies within its interval.
    near = [effect.layer for effect in curve if effect.mean >= peak.low and effect.count > 1]
    proposed = sorted(near, key=lambda layer: -curve[layer].mean)[:3] or [peak.layer]
    total = sum((result.high or 0.0) - (result.low or 0.0) for result in traced) / len(traced)
    return Location(
        kind,
        _ROLE,
        proposed,
        curve,
        len(traced),
        sum(result.skip_reason is not None for result in results),
        total,
        _notes(trace, kind, layers, traced),
    )


def _notes(trace: Trace, kind: str, layers: int, traced: Sequence[TraceResult]) -> list[str]:
    notes = [
        "The peak of a trace does not by itself predict the best layer to edit (Hase et al. 2023): "
        "try the edit there and at its neighbors, and compare evaluations."
    ]
    if kind != "hidden" and trace.window * 4 > layers:
        notes.append(
            f"A window of {trace.window} layers in a model of {layers} does not single out a layer; "
            "a narrower --window sees finer."
        )
    if len(traced) < 30:
        facts = "One fact is an anecdote" if len(traced) == 1 else f"{len(traced)} facts are few"
        notes.append(f"{facts}: trace a set of facts (--facts) for an average with an interval worth having.")
    return notes
