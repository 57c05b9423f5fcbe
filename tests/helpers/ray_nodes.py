"""A Ray with several nodes of one CPU each on this machine, in a separate process: `python ray_nodes.py NUMBER`.

It prints its address, and the names and raylet pids of its nodes, as a line of JSON. It removes each node whose name it
reads from stdin, and ends at the end of stdin. The first node cannot be removed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


class Nodes:
    """The Ray, from the process that started it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        info = json.loads(process.stdout.readline())
        self.on, self._raylets = f"ray:{info['address']}", dict(info["raylets"])

    @property
    def names(self) -> list[str]:
        """The remaining nodes, by their name in a job's row."""
        return list(self._raylets)

    def worker(self, name: str) -> psutil.Process:
        """The worker process on a node."""
        children = psutil.Process(self._raylets[name]).children()
        [worker] = [child for child in children if "ray::Worker" in " ".join(child.cmdline())]
        return worker

    def remove(self, name: str) -> None:
        """Remove a node as a power cut does. Returns when it is removed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        worker = self.worker(name)
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        assert json.loads(self._process.stdout.readline()) == {"removed": name}
        worker.kill()
        del self._raylets[name]


@contextmanager
def ray_nodes(number: int) -> Iterator[Nodes]:
    """Start nodes for a `with` block."""
    # The path of pytest's folder is too long for Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="retcon-") as folder:
        Path(folder, "ray").mkdir()
        settings = {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Binds to 127.0.0.1, where a job connects.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "retcon.tests.helpers.ray_nodes", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        try:
            yield Nodes(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def main(number: int) -> None:
    """The process of the nodes. Ray's output goes to stderr, since the test reads stdout."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    settings = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    nodes = {node.node_id[:8]: node for node in (cluster.add_node(**settings) for _ in range(number))}
    raylets = [(name, node.all_processes["raylet"][0].process.pid) for name, node in nodes.items()]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), file=output, flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[line.strip()], allow_graceful=False)
        print(json.dumps({"removed": line.strip()}), file=output, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
