"""Sentences and table lines for convergence of a covariance, cost of a job and nodes of a cluster."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .format import format_size, plural
from .text import sanitize

if TYPE_CHECKING:
    from ...engine.jobs.cost import Cost

_WIDTH = 30
# The bars are logarithmic, from this value (no bar) to 1 (full width).
_SMALLEST = 1e-4


def describe_convergence(curve: Sequence[dict[str, Any]]) -> str:
    """The last point of a convergence curve: how far the last doubling of the tokens changed C^-1 k."""
    if not curve:
        return "no curve: it needs two doublings of the tokens"
    last = curve[-1]
    return f"doubling to {last['tokens']:,} tokens changed C^-1 k by {last['mean']:.2g} (1 - cos)"


def convergence_lines(curve: Sequence[dict[str, Any]]) -> list[str]:
    """One line per point: tokens, mean and largest 1 - cos, and a bar of the mean."""
    lines = [f"{'tokens':>11}  {'1 - cos':>7}  {'largest':>7}  (bar: mean, {_SMALLEST:g} to 1, logarithmic)"]
    for point in curve:
        bar = "█" * _bar_length(point["mean"])
        lines.append(f"{point['tokens']:>11,}  {point['mean']:7.2g}  {point['largest']:7.2g}  {bar}".rstrip())
    return lines


def _bar_length(value: float) -> int:
    if value <= _SMALLEST:
        return 0
    return max(1, round(_WIDTH * (1 - math.log(min(value, 1.0)) / math.log(_SMALLEST))))


def format_cost(cost: "Cost") -> str:
    """Memory and disk that a job needs, one line each, then the warnings."""
    free = "" if cost.memory_free is None else f", {format_size(cost.memory_free)} free"
    lines = [
        f"memory  at most {format_size(cost.memory)}{free}",
        f"disk    at most {format_size(cost.disk)}, {format_size(cost.disk_free)} free",
    ]
    return "\n".join(lines + [f"Warning: {warning}" for warning in cost.warnings])


def format_cost_line(cost: "Cost | None") -> str:
    """The same in one line; empty if the cost is unknown."""
    if cost is None:
        return ""
    warnings = "".join(f" ! {warning}" for warning in cost.warnings)
    return f"at most {format_size(cost.memory)} of memory, {format_size(cost.disk)} of disk{warnings}"


def describe_nodes(nodes: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """(name, description) of each node that a job on a cluster uses: host, state, workers, units done, rate."""
    return [(f"node {id}", _describe_node(node)) for id, node in nodes.items()]


def _describe_node(node: dict[str, Any]) -> str:
    workers = plural(node["workers"], "worker")
    rate = f", {node['rate']:.3g} {node['unit']}/s" if node["rate"] else ""
    host = sanitize(node["host"])
    return f"{host}, {node['state']}, {workers}, {node['done']:,.0f} {node['unit']} done{rate}"
