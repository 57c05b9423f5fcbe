"""The time that a worker needs to save its progress, alone and with many `retcon job watch` on its job.

A worker saves its progress at most twice a second. The watchers' share of the processor is measured too, because they
share the cores with the worker.
"""

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from retcon.engine.jobs.locks import hold_lock, job_lock_path
from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home

from ..command_line import RETCON

_OWNER = "a worker"
_SAVES_PER_SECOND = 2
_WATCHERS = int(os.environ.get("WATCHERS", "10"))
_SECONDS = float(os.environ.get("SECONDS", "60")) * 2 / 3


def run(folder: Path) -> dict[str, Any]:
    """Medians over two thirds of SECONDS, alone and with WATCHERS watchers.

    `slowdown` is the time that the watchers add to a second of the worker, in seconds.
    """
    catalog = Catalog.open(Home(folder))
    with catalog.write() as session:
        job = jobs.create(session, "trace", {}, "cpu").id or 0
    with hold_lock(job_lock_path(catalog.home, job)):
        with catalog.write() as session:
            jobs.claim(session, job, _OWNER, os.getpid())
        alone = _measure_saves(catalog, job, _SECONDS)
        watchers = [_start_watcher(folder, job) for _ in range(_WATCHERS)]
        try:
            _measure_saves(catalog, job, 1)
            for watcher in watchers:
                # A watcher prints to stderr when it has read the job.
                assert watcher.stderr is not None and watcher.stderr.read(1), "a watcher ended early"
            before, began = _sum_processor_seconds(watchers), time.monotonic()
            watched = _measure_saves(catalog, job, _SECONDS)
            used, elapsed = _sum_processor_seconds(watchers) - before, time.monotonic() - began
        finally:
            for watcher in watchers:
                watcher.kill()
                watcher.wait()
    catalog.close()
    return {
        "watchers": _WATCHERS,
        "save_ms": {"alone": alone * 1000, "watched": watched * 1000},
        "slowdown": (watched - alone) * _SAVES_PER_SECOND,
        "processor_share_per_watcher": used / elapsed / _WATCHERS,
    }


def _start_watcher(folder: Path, job: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"RETCON_HOME": str(folder)}
    null = subprocess.DEVNULL
    return subprocess.Popen(
        [RETCON, "job", "watch", str(job)], env=environment, stdin=null, stdout=null, stderr=subprocess.PIPE
    )


def _measure_saves(catalog: Catalog, job: int, seconds: float) -> float:
    """Save progress twice a second for `seconds`. Returns the median of the seconds of one save."""
    durations, until = [], time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        with catalog.write() as session:
            jobs.save_progress(session, job, _OWNER, done=began, total=None, unit="facts", rate=1.0, seconds_left=None,
                               activity=f"at {began:.1f}")  # fmt: skip
        durations.append(time.monotonic() - began)
        time.sleep(1 / _SAVES_PER_SECOND)
    return statistics.median(durations)


def _sum_processor_seconds(processes: list[subprocess.Popen[bytes]]) -> float:
    """Processor time of all processes. Raises psutil.NoSuchProcess if one has ended."""
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)
