"""Trace a set of facts with all kinds in one job: facts per minute, peak memory, and the ranks of the estimate.

    FACTS=known_facts.json COUNT=100 make bench BENCH=facts

FACTS is a file of known facts. The default is `shared/data/known_facts.json` beside the checkout.
"""

import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from .command_line import CommandLine

KNOWN_FACTS = Path(__file__).parents[2] / "shared" / "data" / "known_facts.json"
# Facts that the predecessor of retcon traced in 16 h 10 min. The projection is for the same number.
_PREDECESSOR_FACTS = 490


def run() -> dict[str, Any]:
    """Figures of one `retcon trace run --facts` on the starter model."""
    path, count = Path(os.environ.get("FACTS", KNOWN_FACTS)), int(os.environ.get("COUNT", "100"))
    if not path.exists():
        return {"facts": {"skipped": f"no file {path}: name a file of known facts with FACTS"}}
    with tempfile.TemporaryDirectory() as folder:
        retcon = CommandLine(Path(folder) / "home")
        subset = Path(folder) / "facts.json"
        subset.write_text(json.dumps(json.loads(path.read_text())[:count]))
        retcon("model", "add", "starter")
        retcon("facts", "import", subset, "--name", "subset")
        began = time.monotonic()
        job = int(retcon("trace", "run", "starter", "--facts", "subset", "--detach"))
        memory = _PeakMemory()
        trace = retcon.wait_for_job(job, memory.update, seconds=5)["trace"]
        seconds = time.monotonic() - began
        results = _load_results(retcon, trace)
    traced = [result for result in results if result["skip_reason"] is None]
    if not traced:
        return {"facts": {"skipped": f"the model answers none of {len(results)} facts: set a larger COUNT"}}
    return {
        "facts": {
            "facts": len(results),
            "traced": len(traced),
            "seconds": seconds,
            "facts_per_minute": 60 * len(traced) / seconds,
            "peak_memory_mb": memory.peak / 1e6,
            "projected_hours_for_490_facts": seconds / len(traced) * _PREDECESSOR_FACTS / 3600,
            "preview_rank_correlation": {
                kind: _correlate_ranks(traced, kind) for kind in ("hidden", "mlp", "attn")
            },
        }
    }


class _PeakMemory:
    """The largest resident size of a job's process, in bytes."""

    def __init__(self) -> None:
        self.peak = 0

    def update(self, record: dict[str, Any]) -> None:
        with suppress(psutil.Error):
            if record["pid"]:
                self.peak = max(self.peak, psutil.Process(record["pid"]).memory_info().rss)


def _load_results(retcon: CommandLine, trace: int) -> list[dict[str, Any]]:
    """The rows with their estimates, which the command line does not print."""
    from sqlmodel import select

    from retcon.store.catalog.catalog import Catalog
    from retcon.store.catalog.tables import TraceResult

    with Catalog.open(retcon.home).read() as session:
        rows = session.exec(select(TraceResult).where(TraceResult.trace_id == trace)).all()
        return [
            row.model_dump(include={"skip_reason", "scores", "estimate", "subject_begin"}) for row in rows
        ]


def _correlate_ranks(results: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Spearman's rank correlation of estimated and exact cells per fact: mean, lowest decile, number of facts."""
    values = []
    for result in results:
        begin = result["subject_begin"]
        exact = np.array(result["scores"][kind]["scores"][begin:], dtype=float).ravel()
        estimate = np.array(result["estimate"][kind][begin:], dtype=float).ravel()
        values.append(float(np.corrcoef(_rank(exact), _rank(estimate))[0, 1]))
    decile = float(np.quantile(values, 0.1))
    return {"mean": float(np.mean(values)), "lowest_decile": decile, "facts": len(values)}


def _rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))
