"""What may fail: the power, processes, a crowd on one catalog. Each part is a module of its own, `fault_*.py`.

SECONDS=60 KILLS=200 make bench BENCH=faults, or PARTS=job_list,watchers for some of them
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import fault_kills, fault_list, fault_power, fault_watchers, fault_writers

_SECONDS = float(os.environ.get("SECONDS", "60"))
_KILLS = int(os.environ.get("KILLS", "200"))


def run() -> dict[str, Any]:
    """Figures of all parts."""
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "power_cut": lambda _folder: fault_power.cut_at_every_call(),
        "many_writers": lambda folder: fault_writers.many_writers(folder, seconds=_SECONDS),
        "job_list": fault_list.listing,
        "watchers": fault_watchers.watched,
        "kills": lambda folder: fault_kills.run_kills(folder, _KILLS),
    }
    figures = {}
    for name in os.environ.get("PARTS", ",".join(parts)).split(","):
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = parts[name](Path(folder) / "home")
    return {"faults": figures}
