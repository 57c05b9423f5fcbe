"""The nodes that a job on a cluster works on, in words."""

from typing import Any

from .text import sanitize


def told_nodes(nodes: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """A line for each: its name, and its state, workers and rate."""
    return [(f"node {id}", _told(node)) for id, node in nodes.items()]


def _told(node: dict[str, Any]) -> str:
    workers = f"{node['workers']} worker{'s' * (node['workers'] != 1)}"
    rate = f", {node['rate']:.3g} {node['unit']}/s" if node["rate"] else ""
    return (
        f"{sanitize(node['host'])}, {node['state']}, {workers}, {node['done']:,.0f} {node['unit']} done{rate}"
    )
