"""A job on Ray compared with the same job in one process, on the same cores, and with a killed worker and a lost node.

    TOKENS=1000000 make bench BENCH=cluster

The job collects second moments of the starter at two layers, over the shipped texts, cut into sentences (about a
minute in one process). Seconds are from the start to the end of the job, with loading. `over_in_process` has two nodes
of one CPU. `own_ray` starts and stops its own Ray with `--on ray`, with a worker of one thread for each core. `faults`
has three nodes: a worker is killed and a node removed during the job. `same_bits` compares the runs on Ray. The job in
one process is not compared: it has a thread for each core, which can change the last bits.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from retcon.engine.covariance.corpus import open_corpus
from retcon.store.states import ENDED_STATES
from retcon.tests.helpers.ray_nodes import Nodes, ray_nodes

from .command_line import CommandLine

_LAYERS = "5,29"
# By default all texts.
_TOKENS = int(os.environ.get("TOKENS", "1000000"))


def run() -> dict[str, Any]:
    """Ratios of times, and whether all runs on Ray gave the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        retcon = CommandLine(Path(folder) / "home")
        os.environ["RETCON_HOME"] = str(retcon.home.root)
        texts = _write_sentences(Path(folder) / "sentences.txt")
        retcon("model", "add", "starter")

        def collect(*options: str, meanwhile: Callable[[int], None] = lambda _job: None) -> dict[str, Any]:
            job = int(
                retcon("covariance", "run", "starter", "--layers", _LAYERS, "--texts", texts, "--max-tokens", _TOKENS,
                       *options, "--detach")
            )  # fmt: skip
            meanwhile(job)
            record = retcon.wait_for_job(job)
            began, ended = (datetime.fromisoformat(record[name]) for name in ("started", "ended"))
            files = _list_files(retcon, record["covariances"])
            return record | {"seconds": (ended - began).total_seconds(), "files": files}

        in_process = collect()
        with ray_nodes(2) as nodes:
            on_ray = collect("--on", nodes.on, "--threads", "1")
        own_ray = collect("--on", "ray", "--threads", "1")
        with ray_nodes(3) as nodes:
            with_faults = collect(
                "--on", nodes.on, "--threads", "1", meanwhile=lambda job: _cause_faults(retcon, job, nodes)
            )

    def compare(record: dict[str, Any]) -> dict[str, Any]:
        return {"ratio": record["seconds"] / in_process["seconds"], "seconds": record["seconds"]}

    states = sorted(node["state"] for node in with_faults["nodes"].values())
    return {
        "cluster": {
            "in_process_seconds": in_process["seconds"],
            "over_in_process": compare(on_ray),
            "own_ray": compare(own_ray),
            "faults": compare(with_faults) | {"nodes": ", ".join(states)},
            "same_bits": on_ray["files"] == own_ray["files"] == with_faults["files"],
        }
    }


def _write_sentences(path: Path) -> Path:
    """Write the shipped texts, one sentence per line."""
    texts = (re.split(r"(?<=[.!?]) ", text) for text in open_corpus("shipped").documents(1))
    sentences = (" ".join(sentence.split()) for text in texts for sentence in text)
    path.write_text("\n".join(filter(None, sentences)))
    return path


def _cause_faults(retcon: CommandLine, job: int, nodes: Nodes) -> None:
    """Kill a worker when all nodes have one. Remove a node some seconds later."""
    record = retcon.json("job", "show", job)
    while sum(node["workers"] for node in record["nodes"].values()) < len(nodes.names):
        assert record["state"] not in ENDED_STATES, "the job ended before the faults: set more TOKENS"
        time.sleep(0.5)
        record = retcon.json("job", "show", job)
    nodes.worker(nodes.names[1]).kill()
    time.sleep(5)
    nodes.remove(nodes.names[2])


def _list_files(retcon: CommandLine, ids: list[int]) -> list[str]:
    """The hashes of the covariances' files: sums, probes and curve."""
    rows = retcon.json("covariance", "list")["covariances"]
    return [row["artifact"] for id in ids for row in rows if row["covariance"] == id]
