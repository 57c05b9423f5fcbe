"""The nodes of a Ray, as a pool of workers uses them. Loads no Ray."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....errors import InputError
from ...devices import CPU

# Pools stop using a node after so many workers died before they had loaded the model.
MAX_DEATHS = 4


@dataclass
class Node:
    """A node and the number of workers that fit on it. `done` is the work finished there, in the pool's unit."""

    host: str
    slots: int
    lost: bool = False
    failed_starts: int = 0
    done: float = 0.0
    # When the node got its first shard, in seconds of the monotonic clock.
    since: float | None = None

    @property
    def usable(self) -> bool:
        return not self.lost and self.failed_starts < MAX_DEATHS

    @property
    def rate(self) -> float | None:
        """Work per second since the node's first shard."""
        return None if self.since is None or self.lost else self.done / (time.monotonic() - self.since)


@dataclass
class NodeTable:
    """All nodes that a pool has used, by Ray's id. A node has one worker per `threads` CPUs, or per GPU."""

    device: str
    threads: int
    unit: str
    nodes: dict[str, Node] = field(default_factory=dict)

    def __getitem__(self, id: str) -> Node:
        return self.nodes[id]

    def update(self, reported: list[dict[str, Any]]) -> None:
        """Add new nodes and mark lost ones, from `ray.nodes()`."""
        for one in reported:
            id, resources = one["NodeID"], one["Resources"]
            node = self.nodes.get(id)
            if node is None and one["Alive"]:
                cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
                slots = cpus // self.threads if self.device == CPU else gpus
                self.nodes[id] = Node(one["NodeManagerHostname"], int(slots))
            elif node is not None and not node.lost and not one["Alive"]:
                node.lost = True
                print(f"node {node.host} is gone", file=sys.stderr, flush=True)

    def usable(self, last_loss: str) -> dict[str, Node]:
        """The nodes that can hold workers. It is empty if more nodes may join.

        Raises:
            InputError: no node has enough CPUs for a worker.
            RuntimeError: workers die on all nodes before they have loaded the model.
        """
        found = {id: node for id, node in self.nodes.items() if node.usable and node.slots}
        if found:
            return found
        if not any(node.slots for node in self.nodes.values()):
            raise InputError(
                f"No node of this Ray has {self.threads} CPUs for a worker. Choose fewer with --threads."
            )
        if any(node.slots and not node.lost for node in self.nodes.values()):
            raise RuntimeError(
                f"on all nodes of this Ray, workers die while they load the model: {last_loss}"
            )
        return {}

    def summary(self, ready: Counter[str]) -> str:
        """The numbers of workers and nodes and the nodes' rates, for the detail of the job's progress."""
        text = f"{_count(ready.total(), 'worker')} on {_count(len(ready), 'node')}"
        rates = [rate for id in ready if (rate := self.nodes[id].rate)]
        if len(rates) > 1:
            text += f" ({' + '.join(f'{rate:.3g}' for rate in rates)} {self.unit}/s)"
        return text

    def status(self, ready: Mapping[str, int]) -> dict[str, Any]:
        """Each node's host, state, workers and rate, for the job's row."""
        return {
            id[:8]: {
                "host": node.host,
                "state": "gone" if node.lost else "up" if node.usable else "failed",
                "workers": ready[id],
                "done": node.done,
                "unit": self.unit,
                "rate": node.rate,
            }
            for id, node in self.nodes.items()
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
