"""What it costs a job to be watched: the processor's seconds that its process takes, alone and with people watching."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_RETCON = str(Path(sys.executable).with_name("retcon"))
_LAYER, _TOKENS = "5", "4000"
_ENDED = ("done", "failed", "cancelled", "interrupted")


def watched(folder: Path, *, watchers: int = 10, pairs: int = 5) -> dict[str, Any]:
    """Second moments of the starter, in turns alone and with so many `retcon job watch`; each pair is of one seed.

    `ratio` is the median over the pairs: the worker's user and system seconds from its start to its end, watched over
    alone.
    """
    homes = {
        crowd: os.environ | {"RETCON_HOME": str(folder / name), "OMP_NUM_THREADS": "1"}
        for crowd, name in ((0, "alone"), (watchers, "watched"))
    }
    for home in homes.values():
        _retcon(home, "model", "add", "starter")
    seconds: dict[int, list[float]] = {crowd: [] for crowd in homes}
    for pair in range(pairs):
        # Whoever is first finds the processor cooler.
        for crowd in sorted(homes, reverse=pair % 2 == 1):
            seconds[crowd].append(_worker_seconds(homes[crowd], crowd, seed=pair))
    ratios = [crowded / alone for alone, crowded in zip(seconds[0], seconds[watchers], strict=True)]
    return {
        "watchers": watchers,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds_alone": statistics.median(seconds[0]),
    }


def _worker_seconds(home: dict[str, str], watchers: int, seed: int) -> float:
    job = _retcon(home, "covariance", "run", "starter", "--layers", _LAYER, "--max-tokens", _TOKENS,
                  "--seed", str(seed), "--detach").strip()  # fmt: skip
    crowd = [
        subprocess.Popen([_RETCON, "job", "watch", job], env=home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
        for _ in range(watchers)
    ]  # fmt: skip
    spent = 0.0
    while (row := json.loads(_retcon(home, "job", "show", job, "--json")))["state"] not in _ENDED:
        if row["pid"]:
            spent = max(spent, _spent(row["pid"], for_seconds=3))
    assert row["state"] == "done", row
    for one in crowd:
        one.wait(timeout=60)
    return spent


def _spent(pid: int, for_seconds: float) -> float:
    """The seconds that a process has spent so far, when that time is over or the process is."""
    spent, until = 0.0, time.monotonic() + for_seconds
    try:
        while time.monotonic() < until:
            times = psutil.Process(pid).cpu_times()
            spent = times.user + times.system
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        pass
    return spent


def _retcon(home: dict[str, str], *words: str) -> str:
    return subprocess.run([_RETCON, *words], env=home, check=True, stdout=subprocess.PIPE, text=True).stdout
