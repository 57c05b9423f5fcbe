"""What it costs a job to be watched: how long a worker takes to tell how far it is, alone and before a crowd.

A worker tells at most twice a second. The crowd's own share of the processor is told too, since a box has only so many.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from retcon.engine.jobs.locks import hold_lock, job_lock_path
from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home

_RETCON = str(Path(sys.executable).with_name("retcon"))
_OWNER = "a worker"
_A_SECOND = 2


def watched(folder: Path, *, watchers: int = 10, seconds: float = 40.0) -> dict[str, Any]:
    """The medians over so many seconds, alone and with so many `retcon job watch` that have all begun.

    `slower` is what the crowd adds to a second of the worker's, as a share of it.
    """
    catalog = Catalog.open(Home(folder))
    with catalog.write() as session:
        job = jobs.create(session, "trace", {}, "cpu").id
    with hold_lock(job_lock_path(catalog.home, job)):
        with catalog.write() as session:
            jobs.claim(session, job, _OWNER, os.getpid())
        alone = _telling(catalog, job, seconds)
        crowd = [
            subprocess.Popen([_RETCON, "job", "watch", str(job)], env=os.environ | {"RETCON_HOME": str(folder)},
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(watchers)
        ]  # fmt: skip
        _telling(catalog, job, 1)
        for one in crowd:  # each has drawn once
            assert one.stderr is not None and one.stderr.read(1)
        before, began = _processor_seconds(crowd), time.monotonic()
        crowded = _telling(catalog, job, seconds)
        share = (_processor_seconds(crowd) - before) / (time.monotonic() - began) / watchers
        assert all(one.poll() is None for one in crowd), "somebody stopped watching"
        for one in crowd:
            one.kill()
            one.wait()
    return {
        "watchers": watchers,
        "telling_ms": {"alone": alone * 1000, "watched": crowded * 1000},
        "slower": (crowded - alone) * _A_SECOND,
        "processor_share_of_a_watcher": share,
    }


def _telling(catalog: Catalog, job: int, seconds: float) -> float:
    """The median of the seconds that it takes, twice a second."""
    took, until = [], time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        with catalog.write() as session:
            jobs.save_progress(session, job, _OWNER, done=began, total=None, unit="facts", rate=1.0, seconds_left=None,
                          activity=f"at {began:.1f}")  # fmt: skip
        took.append(time.monotonic() - began)
        time.sleep(1 / _A_SECOND)
    return statistics.median(took)


def _processor_seconds(crowd: list[subprocess.Popen[bytes]]) -> float:
    times = [psutil.Process(one.pid).cpu_times() for one in crowd]
    return sum(one.user + one.system for one in times)
