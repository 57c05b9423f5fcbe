"""Faults: power cuts, killed processes, many processes on one catalog. Each part is a module of this folder.

    SECONDS=60 KILLS=200 JOBS=10000 WATCHERS=10 PARTS=job_list,watchers make bench BENCH=faults

The default of PARTS is all parts.
"""

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

PARTS = ("power_cut", "many_writers", "job_list", "watchers", "kills")


def run() -> dict[str, Any]:
    """Figures of all parts. Each part gets a new folder."""
    figures = {}
    for name in os.environ.get("PARTS", ",".join(PARTS)).split(","):
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = importlib.import_module(f".{name}", __package__).run(Path(folder))
    return {"faults": figures}
