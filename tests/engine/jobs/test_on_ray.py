"""Shards on a Ray with real nodes: the bits of one process, whatever dies meanwhile."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import Here, Retcon, wait_for

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'retcon[ray]'")

pytestmark = pytest.mark.slow

# Each long enough, on a small machine, that something can be killed in its middle.
FACTS = ("trace", "run", "tiny", "--facts", "known", "--samples", 400)
COLLECT = ("covariance", "run", "tiny", "--layers", "0,2", "--max-tokens", 10**6)


class Nodes:
    """A Ray of three nodes of one CPU each, all on this machine."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        settings = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
        self.cluster = Cluster()
        self.cluster.add_node(**settings, temp_dir=str(folder))
        self.spare = [self.cluster.add_node(**settings) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def workers(self, node: Any) -> list[psutil.Process]:
        """The processes on a node that hold a model."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return [child for child in raylet.children() if "Worker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Bound to 127.0.0.1, as `--on ray:127.0.0.1:PORT` looks for it."""
    # Not pytest's folder, whose path is too long for Ray's sockets.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="rc") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTERS", False, raising=False)
        made = Nodes(Path(folder))
        yield made
        made.cluster.shutdown()


def under_way(retcon: Retcon, id: int, done: float) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(
        lambda: Here(retcon.home).job(id),
        lambda job: (job["total"] and job["unit"] != "answers" and job["done"] >= done)
        or job["state"] not in ("queued", "waiting", "running"),
    )
    assert found["state"] == "running", found
    return found


def test_first(retcon: Retcon, nodes: Nodes) -> None:
    print(nodes.address, [nodes.workers(n) for n in nodes.spare])
    retcon.json(*COLLECT, "--on", f"ray:{nodes.address}")
