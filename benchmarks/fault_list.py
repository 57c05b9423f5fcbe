"""A catalog of many jobs: how long `retcon job list` takes on it, and what of that is the program's start."""

import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.store.home import Home

_RETCON = str(Path(sys.executable).with_name("retcon"))
_STATES = ("done", "done", "done", "done", "failed", "cancelled", "interrupted")


def listing(folder: Path, *, jobs: int = 10_000, runs: int = 7) -> dict[str, Any]:
    """Medians of `runs` runs of `job list` on an empty catalog and on one with so many ended jobs, in turns."""
    homes = {"empty": Home(folder / "empty"), "full": Home(folder / "full")}
    for home in homes.values():
        Catalog.open(home).close()
    _fill(homes["full"], jobs)
    seconds: dict[str, list[float]] = {name: [] for name in homes}
    for _ in range(runs):
        for name, home in homes.items():
            began = time.monotonic()
            subprocess.run([_RETCON, "job", "list"], env=os.environ | {"RETCON_HOME": str(home.root)}, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            seconds[name].append(time.monotonic() - began)
    start, full = (statistics.median(seconds[name]) for name in ("empty", "full"))
    return {"jobs": jobs, "start_up_seconds": start, "seconds": full, "after_start_up_seconds": full - start}


def _fill(home: Home, count: int) -> None:
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
