"""A job on Ray against the same job in one process, on the same cores; and with a worker killed and a node removed.

    make bench BENCH=cluster

Second moments of the starter at two layers, over the shipped texts cut into sentences (about a minute in one process).
Seconds are from when the job begins to when it is done, loading and all. `over_in_process` has two nodes of one CPU,
`own_ray` the one that `--on ray` starts and stops by itself, with a worker of one thread for each core. `faults` has
three nodes; a worker is killed and a node taken away in the middle. `same_bits` compares the runs on Ray, all of one
thread a worker; the job in one process has a thread for each core, with which the last bits may be others.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from retcon.engine.covariance.corpus import open_corpus
from retcon.tests.helpers.ray_nodes import Nodes, ray_nodes

_RETCON = str(Path(sys.executable).with_name("retcon"))
_LAYERS = "5,29"


def run() -> dict[str, Any]:
    """Ratios of times, and whether all runs on Ray gave the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETCON_HOME"] = str(Path(folder) / "home")
        texts = Path(folder) / "sentences.txt"
        sentences = (re.split(r"(?<=[.!?]) ", text) for text in open_corpus("shipped").documents(1))
        texts.write_text(
            "\n".join(" ".join(one.split()) for some in sentences for one in some if one.split())
        )
        _retcon("model", "add", "starter")

        def collect(*where: str, meanwhile: Callable[[int], None] = lambda _job: None) -> dict[str, Any]:
            job = int(
                _retcon("covariance", "run", "starter", "--layers", _LAYERS, "--texts", str(texts),
                        "--max-tokens", str(_tokens()), *where, "--detach")
            )  # fmt: skip
            meanwhile(job)
            ended = _ended(job)
            ended["files"] = _files(ended["covariances"])
            return ended

        here = collect()
        with ray_nodes(2) as nodes:
            there = collect("--on", nodes.on, "--threads", "1")
        own = collect("--on", "ray", "--threads", "1")
        with ray_nodes(3) as nodes:
            hurt = collect("--on", nodes.on, "--threads", "1", meanwhile=lambda job: _hurt(job, nodes))
    return {
        "cluster": {
            "in_process_seconds": here["seconds"],
            "over_in_process": {"ratio": there["seconds"] / here["seconds"], "seconds": there["seconds"]},
            "own_ray": {"ratio": own["seconds"] / here["seconds"], "seconds": own["seconds"]},
            "faults": {
                "ratio": hurt["seconds"] / here["seconds"],
                "seconds": hurt["seconds"],
                "nodes": ", ".join(sorted(node["state"] for node in hurt["nodes"].values())),
            },
            "same_bits": there["files"] == own["files"] == hurt["files"],
        }
    }


def _tokens() -> int:
    """Of all texts by default; fewer with TOKENS, to try this out."""
    return int(os.environ.get("TOKENS", "1000000"))


def _hurt(job: int, nodes: Nodes) -> None:
    """Kill a worker, and some seconds later take a node away."""
    row = _job(job)
    while sum(node["workers"] for node in row["nodes"].values()) < len(nodes.names):
        assert row["state"] in ("queued", "waiting", "running"), "it was over before it could be hurt"
        time.sleep(0.5)
        row = _job(job)
    nodes.worker(nodes.names[1]).kill()
    time.sleep(5)
    nodes.remove(nodes.names[2])


def _ended(job: int) -> dict[str, Any]:
    while (row := _job(job))["state"] in ("queued", "waiting", "running"):
        time.sleep(0.5)
    assert row["state"] == "done", row
    began, ended = (datetime.fromisoformat(row[name]) for name in ("started", "ended"))
    return row | {"seconds": (ended - began).total_seconds()}


def _job(job: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_retcon("job", "show", str(job), "--json"))
    return found


def _files(ids: list[int]) -> list[str]:
    """The hashes of covariances' files: sums, probes and curve."""
    rows = json.loads(_retcon("covariance", "list", "--json"))["covariances"]
    return [row["artifact"] for id in ids for row in rows if row["covariance"] == id]


def _retcon(*words: str) -> str:
    return subprocess.run([_RETCON, *words], check=True, stdout=subprocess.PIPE, text=True).stdout
