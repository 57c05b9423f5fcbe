"""A set of facts, all kinds, as one job: facts a minute, peak memory, and how well the preview ranks cells.

    FACTS=known_facts.json COUNT=100 make bench BENCH=facts

FACTS is a file of known facts; without it the file beside the checkout (`../shared/data/known_facts.json`) is taken.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

KNOWN_FACTS = Path(__file__).parents[2] / "shared" / "data" / "known_facts.json"
_RETCON = str(Path(sys.executable).with_name("retcon"))
# What the project that retcon grew out of needed 16 h 10 min for: facts, of which so many were traced.
_SEED_FACTS, _SEED_TRACED = 1208, 490


def run() -> dict[str, Any]:
    """Figures of one `retcon trace run --facts` on the starter model."""
    path, count = Path(os.environ.get("FACTS", KNOWN_FACTS)), int(os.environ.get("COUNT", "100"))
    if not path.exists():
        return {"facts": {"skipped": f"no file {path}; name one with FACTS"}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETCON_HOME"] = str(Path(folder) / "home")
        some = Path(folder) / "facts.json"
        some.write_text(json.dumps(json.loads(path.read_text())[:count]))
        _retcon("model", "add", "starter")
        _retcon("facts", "import", str(some), "--name", "some")
        began = time.monotonic()
        job = int(_retcon("trace", "run", "starter", "--facts", "some", "--detach"))
        peak = _follow(job)
        seconds = time.monotonic() - began
        trace = json.loads(_retcon("job", "show", str(job), "--json"))["trace"]
        results = _results(trace)
    traced = [row for row in results if row["skip_reason"] is None]
    per_fact = seconds / len(traced)
    return {
        "facts": {
            "facts": len(results),
            "traced": len(traced),
            "seconds": seconds,
            "facts_per_minute": 60 * len(traced) / seconds,
            "peak_memory_mb": peak / 1e6,
            "projected_hours_for_the_seed_at_this_model": per_fact * _SEED_TRACED / 3600,
            "preview_rank_correlation": {
                kind: _correlation(traced, kind) for kind in ("hidden", "mlp", "attn")
            },
        }
    }


def _results(trace: int) -> list[dict[str, Any]]:
    """The rows with their estimates, which the command line does not print."""
    from sqlmodel import select

    from retcon.store.catalog.catalog import Catalog
    from retcon.store.catalog.tables import TraceResult

    with Catalog.open().read() as session:
        rows = session.exec(select(TraceResult).where(TraceResult.trace_id == trace)).all()
    return [
        {"skip_reason": r.skip_reason, "scores": r.scores, "estimate": r.estimate, "begin": r.subject_begin}
        for r in rows
    ]


def _correlation(results: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Spearman's rank correlation of estimated and exact cells of each fact: mean, lowest tenth, count."""
    values = []
    for row in results:
        exact = np.array(row["scores"][kind]["scores"][row["begin"] :], dtype=float).ravel()
        guess = np.array(row["estimate"][kind][row["begin"] :], dtype=float).ravel()
        values.append(float(np.corrcoef(_ranks(exact), _ranks(guess))[0, 1]))
    return {"mean": float(np.mean(values)), "tenth": float(np.quantile(values, 0.1)), "facts": len(values)}


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def _follow(job: int) -> int:
    """Wait for a job; the largest resident size of its process, in bytes."""
    peak = 0
    while True:
        row = json.loads(_retcon("job", "show", str(job), "--json"))
        if row["state"] in ("done", "failed", "cancelled", "interrupted"):
            if row["state"] != "done":
                raise RuntimeError(f"the job is {row['state']}: {row['error']}")
            return peak
        if row["pid"] and psutil.pid_exists(row["pid"]):
            peak = max(peak, psutil.Process(row["pid"]).memory_info().rss)
        time.sleep(5)


def _retcon(*words: str) -> str:
    done = subprocess.run([_RETCON, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()
