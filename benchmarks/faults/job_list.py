"""The time of `retcon job list` on a catalog with many jobs, and the share of the program's start in it."""

import os
import statistics
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.store.home import Home

from ..command_line import RETCON
from ..machine import time_call

_STATES = ("done", "done", "done", "done", "failed", "cancelled", "interrupted")
_JOBS = int(os.environ.get("JOBS", "10000"))
_RUNS = 7


def run(folder: Path) -> dict[str, Any]:
    """Medians of `job list` on an empty catalog and on a catalog with JOBS ended jobs, in turns."""
    homes = {"empty": Home(folder / "empty"), "full": Home(folder / "full")}
    for home in homes.values():
        Catalog.open(home).close()
    _add_jobs(homes["full"], _JOBS)
    seconds: dict[str, list[float]] = {name: [] for name in homes}
    for _ in range(_RUNS):
        for name, home in homes.items():
            seconds[name].append(time_call(lambda home=home: _list_jobs(home))[0])
    start, full = (statistics.median(seconds[name]) for name in ("empty", "full"))
    return {"jobs": _JOBS, "start_up_seconds": start, "seconds": full, "after_start_up_seconds": full - start}


def _list_jobs(home: Home) -> None:
    environment = os.environ | {"RETCON_HOME": str(home.root)}
    subprocess.run([RETCON, "job", "list"], env=environment, check=True, stdout=subprocess.DEVNULL)


def _add_jobs(home: Home, count: int) -> None:
    catalog = Catalog.open(home)
    began = datetime.now(UTC) - timedelta(days=100)
    with catalog.write() as session:
        for number in range(count):
            at = began + timedelta(minutes=number)
            session.add(
                Job(kind="trace", spec={"model": "starter", "facts": "known", "kinds": ["hidden", "mlp", "attn"]},
                    state=_STATES[number % len(_STATES)], device="cpu", pid=1, owner="x", attempt=1, done=100,
                    total=100, unit="facts", result={"trace": number}, checkpoint={"trace": number, "position": 100},
                    created=at, started=at, ended=at)
            )  # fmt: skip
    catalog.close()
