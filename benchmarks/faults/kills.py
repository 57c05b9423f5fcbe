"""Kill jobs of each kind, and the app, at random moments: no finished work is lost, and results are equal to the bit.

The moment of a kill is uniform over the time of the undisturbed job. So kills hit the start of Python, the loading of
the model, the work, and the writing of the result. A killed job is resumed. After some kills it runs to its end. Its
result is compared with the result of the undisturbed job.
"""

import json
import os
import pty
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlmodel import select

from retcon.engine.jobs import control
from retcon.engine.jobs.locks import is_locked, job_lock_path
from retcon.engine.jobs.reap import reap
from retcon.engine.jobs.specs import Spec
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Job,
    Revision,
    SweepTrial,
    TraceResult,
)
from retcon.store.home import Home
from retcon.store.states import ENDED_STATES

from ..command_line import RETCON
from .killed_jobs import build_specs, format_result

_KILLS_PER_JOB = 5
# The app is opened and killed beside every fourth job.
_JOBS_PER_APP = 4
# A busy machine needs long for a job, and for the end of a killed process.
_JOB_TIMEOUT_SECONDS = 900.0
_KILL_TIMEOUT_SECONDS = 120.0


@dataclass
class Tally:
    """Counts of kills and of their faults."""

    kills: int = 0
    app_kills: int = 0
    jobs: int = 0
    # Rows that were complete before a kill and missing or different after it.
    lost: int = 0
    stuck: int = 0
    different: int = 0
    corrupt: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)

    @property
    def all_kills(self) -> int:
        return self.kills + self.app_kills

    def figures(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Expected:
    """The undisturbed job of a kind: its result as text, and its duration."""

    result: str
    seconds: float


def run(folder: Path) -> dict[str, Any]:
    """Kill KILLS times."""
    return run_kills(folder, int(os.environ.get("KILLS", "200")))


def run_kills(folder: Path, count: int, seed: int = 1) -> dict[str, Any]:
    """Kill `count` times, on a new home in `folder`. Prints a line for each job."""
    os.environ |= {
        "RETCON_HOME": str(folder / "home"),
        "RETCON_LOCKS": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    os.environ.pop("HF_TOKEN", None)
    catalog = Catalog.open(Home(folder / "home"))
    specs = build_specs(catalog, folder)
    expected = {}
    for kind, build_spec in specs.items():
        began = time.monotonic()
        job = control.follow(catalog, control.submit(catalog, build_spec(0)).id or 0)
        assert job.state == "done", f"{kind}: {job.error}"
        expected[kind] = Expected(format_result(catalog, job), time.monotonic() - began)
    killer = Killer(catalog, seed)
    number = 0
    while killer.tally.all_kills < count:
        for kind, build_spec in specs.items():
            number += 1
            killer.kill_job(kind, build_spec(number), expected[kind])
            print(f"{killer.tally.all_kills} kills; {kind}: {killer.tally.figures()}", file=sys.stderr)
            if killer.tally.all_kills >= count:
                break
    catalog.close()
    return killer.tally.figures()


class Killer:
    """Kills jobs and apps at random moments, and counts the effects."""

    def __init__(self, catalog: Catalog, seed: int) -> None:
        self.tally = Tally()
        self._catalog = catalog
        self._random = random.Random(seed)

    def kill_job(self, kind: str, spec: Spec, expected: Expected) -> None:
        """Kill and resume one job several times, then let it end. Kill the app beside some jobs."""
        id = control.submit(self._catalog, spec).id or 0
        self.tally.jobs += 1
        if self.tally.jobs % _JOBS_PER_APP == 1:
            self._kill_app(id)
        for _ in range(_KILLS_PER_JOB):
            time.sleep(self._random.uniform(0, expected.seconds))
            before = _read_complete_rows(self._catalog)
            if not _kill_worker(self._catalog, id):
                break
            self.tally.kills += 1
            self.tally.by_kind[kind] = self.tally.by_kind.get(kind, 0) + 1
            after = _read_complete_rows(self._catalog)
            self.tally.lost += sum(after.get(key) != row for key, row in before.items())
            reap(self._catalog)
            self.tally.corrupt += not _is_sound(self._catalog)
            # A kill can hit the process after it wrote its result. Then there is nothing to resume.
            if _load_job(self._catalog, id).state in ("done", "failed"):
                break
            control.resume(self._catalog, id)
        job = _wait_for_end(self._catalog, id)
        if job is None:
            self.tally.stuck += 1
        elif job.state != "done" or format_result(self._catalog, job) != expected.result:
            self.tally.different += 1
            print(f"{kind}: job {id} is {job.state}: {job.error}", file=sys.stderr)

    def _kill_app(self, id: int) -> None:
        """Open the app in a new terminal and kill it. The job beside it must keep running."""
        controller, terminal = pty.openpty()
        app = subprocess.Popen(
            [RETCON],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        )
        os.close(terminal)
        time.sleep(self._random.uniform(0.2, 1.5))
        app.kill()
        app.wait()
        os.close(controller)
        self.tally.app_kills += 1
        self.tally.lost += _load_job(self._catalog, id).state in ("interrupted", "failed")


def _kill_worker(catalog: Catalog, id: int) -> bool:
    """Kill the worker of a job and wait until its lock is free. Returns False if the job has ended already."""
    process = _find_worker(id)
    if process is None or _load_job(catalog, id).state in ENDED_STATES:
        return False
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    with suppress(psutil.TimeoutExpired):
        process.wait(_KILL_TIMEOUT_SECONDS)
    deadline = time.monotonic() + _KILL_TIMEOUT_SECONDS
    while is_locked(job_lock_path(catalog.home, id)):
        assert time.monotonic() < deadline, f"the killed process of job {id} does not end"
        time.sleep(0.02)
    return True


def _find_worker(id: int) -> psutil.Process | None:
    """The worker process of a job, before or after it claims the job."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            words = [] if child.status() == psutil.STATUS_ZOMBIE else child.cmdline()
            if "retcon.engine.jobs.worker" in words and words[-2] == str(id):
                return child
    return None


def _load_job(catalog: Catalog, id: int) -> Job:
    with catalog.read() as session:
        return session.get_one(Job, id)


def _wait_for_end(catalog: Catalog, id: int) -> Job | None:
    """The job when it has ended. None if it does not end in time."""
    deadline = time.monotonic() + _JOB_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        reap(catalog)
        job = _load_job(catalog, id)
        if job.state in ENDED_STATES:
            return job
        time.sleep(0.1)
    return None


def _is_sound(catalog: Catalog) -> bool:
    with closing(sqlite3.connect(catalog.home.catalog)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def _read_complete_rows(catalog: Catalog) -> dict[str, str]:
    """Each complete result in the catalog as text, by table and id."""
    rows = {}
    with catalog.read() as session:
        for table in (TraceResult, AverageEffect, Covariance, Revision, SweepTrial, Evaluation):
            for row in session.exec(select(table)):
                values = row.model_dump()
                if values.get("is_complete", True):
                    text = json.dumps(values, sort_keys=True, default=str)
                    rows[f"{table.__name__} {values['id']}"] = text
    return rows
