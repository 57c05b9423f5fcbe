"""`--estimate`: the cost of a job, by calculation and by measurement, without starting it."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from retcon.engine.jobs import control
from retcon.engine.jobs.cost import estimate_cost
from retcon.engine.jobs.locks import device_lock_path, is_locked
from retcon.engine.jobs.specs import CovarianceSpec, TraceSpec
from retcon.engine.jobs.worker import __main__ as worker
from retcon.engine.jobs.worker import queue
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home
from retcon.tests.helpers.command_line import Retcon, write_facts

pytestmark = pytest.mark.slow

ONE = ("--prompt", "The Eiffel Tower is in", "--subject", "Eiffel Tower")
KEY_WIDTH = 56  # of the tiny model, which has four layers


def kinds(retcon: Retcon) -> list[str]:
    return [job["kind"] for job in Retcon(retcon.home).json("job", "list")["jobs"]]


@pytest.mark.parametrize(
    ("words", "says", "disk"),
    [
        (("trace", "run", "tiny", "--facts", "known"), "facts that the model knows", None),
        (("covariance", "run", "tiny", "--layers", "1-3"), "tokens read", 3 * 2 * 8 * KEY_WIDTH**2),
        (("edit", "run", "tiny", *ONE, "--target", "Rome", "--layer", 2), "covariances to collect: 1", None),
        (("edit", "sweep", "tiny", "--facts", "wanted"), "steps of a search at layer 0", 4 * 2 * 8 * KEY_WIDTH**2),
        (("edit", "sweep", "tiny", "--facts", "wanted", "--method", "ft-l"), "a training on all requests", None),
    ],
)  # fmt: skip
def test_estimate_measures_without_earlier_jobs(
    retcon: Retcon, words: tuple[Any, ...], says: str, disk: int | None, tmp_path: Path
) -> None:
    fact = {"subject": "Toyota", "prompt": "{} was born in", "target_new": "Berlin", "target_true": "Italy"}
    retcon("facts", "import", write_facts(tmp_path / "facts.json", [fact]), "--name", "wanted")
    before = retcon.rows()
    found = retcon.json(*words, "--estimate")
    assert kinds(retcon) == ["preflight", "model"]
    assert retcon.rows() == before, "something was kept"
    assert says in found["basis"]
    assert found["seconds"] > 0
    parameters = retcon.json("model", "show", "tiny")["parameters"]
    assert 4 * parameters < found["memory"] < found["memory_free"]
    if disk is not None:
        assert found["disk"] == disk


def test_estimate_uses_an_earlier_job(retcon: Retcon) -> None:
    words = ("trace", "run", "tiny", "--samples", 2, "--kinds", "hidden")
    retcon.json(*words, "--facts", "known")
    done = Retcon(retcon.home).json("job", "list")["jobs"][0]
    found = retcon.json(*words, "--facts", "mixed", "--estimate")
    assert found["basis"].startswith(f"job {done['id']} took") and "12 facts" in found["basis"]
    assert kinds(retcon) == ["trace", "model"], "nothing was measured anew"
    told = retcon(*words, "--facts", "mixed", "--estimate")
    assert "memory  at most" in told and "disk    at most" in told and "time    about" in told
    # A job with another number of samples does not count.
    assert "as job" not in retcon.json(*words[:3], "--samples", 3, "--facts", "mixed", "--estimate")["basis"]


def test_job_waits_for_disk_space_before_it_starts(retcon: Retcon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job shows the reason, holds no device, and can be cancelled while it waits."""
    monkeypatch.setenv("RETCON_HOME", str(retcon.home))
    usage = shutil.disk_usage(retcon.home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    catalog = Catalog.open(Home(retcon.home))
    with catalog.write() as session:
        job = rows.create(session, "covariance", CovarianceSpec("tiny", [1]).as_dict(), "cpu")
    assert job.id is not None
    catalog.home.job_log(job.id).touch()
    seen = []

    def sleep(_seconds: float) -> None:
        with catalog.read() as session:
            found = rows.get(session, job.id or 0)
        seen.append((found.state, found.activity, is_locked(device_lock_path(catalog.home, "cpu"))))
        control.request_stop(catalog, job.id or 0)

    monkeypatch.setattr(queue, "has_space", lambda *_: False)
    monkeypatch.setattr(queue.time, "sleep", sleep)
    try:
        assert worker.main(job.id) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.umask(mask)
    with catalog.read() as session:
        ended = rows.get(session, job.id)
    catalog.close()
    [(state, activity, held)] = seen
    assert state == "waiting" and "is full" in activity and "MB are needed" in activity
    assert not held
    assert ended.state == "cancelled" and ended.error is None


def test_estimate_warns_of_little_memory(retcon: Retcon, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    catalog = Catalog.open(Home(retcon.home))
    spec = TraceSpec("tiny", prompt="The Eiffel Tower is in", subject="Eiffel Tower")
    plenty = estimate_cost(catalog, spec, "cpu")
    assert plenty is not None and plenty.warnings == []
    memory = psutil.virtual_memory()._replace(available=plenty.memory - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    scarce = estimate_cost(catalog, spec, "cpu")
    catalog.close()
    assert scarce is not None and "of memory on cpu" in scarce.warnings[0]
