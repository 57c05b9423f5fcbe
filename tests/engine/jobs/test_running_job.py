"""Jobs without work: states, ownership, progress, retries and the `on_finish` command."""

import importlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from retcon.engine.errors import StopRequested
from retcon.engine.jobs import control
from retcon.engine.jobs.locks import (
    job_lock_path,
    try_lock,
)
from retcon.engine.jobs.notice import run_on_finish
from retcon.engine.jobs.reap import reap
from retcon.engine.jobs.runs.edit_checkpoint import invalidate_if_changed
from retcon.engine.jobs.specs import SPECS
from retcon.engine.jobs.worker import __main__ as worker
from retcon.engine.jobs.worker import running as running_module
from retcon.engine.jobs.worker.running import RunningJob
from retcon.engine.model import limits
from retcon.engine.progress import Progress
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.store.errors import InputError, LostOwnership
from retcon.store.maintenance.references import digests_in


def queue_job(catalog: Catalog) -> int:
    with catalog.write() as session:
        job = rows.create(session, "ask", {}, "cpu")
    assert job.id is not None
    return job.id


def read_job(catalog: Catalog, id: int) -> Job:
    with catalog.read() as session:
        return rows.get(session, id)


def claim_job(catalog: Catalog, id: int, owner: str) -> RunningJob:
    with catalog.write() as session:
        assert rows.claim(session, id, owner, os.getpid())
        rows.mark_running(session, id, owner)
    return RunningJob(catalog, read_job(catalog, id), owner)


def test_a_worker_retries_while_its_lock_is_checked(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that checks the lock while the worker starts must not make the worker exit."""
    id = queue_job(catalog)
    monkeypatch.setenv("RETCON_HOME", str(catalog.home.root))
    with ExitStack() as checker:
        assert checker.enter_context(try_lock(job_lock_path(catalog.home, id)))
        threading.Timer(0.3, checker.pop_all().close).start()
        assert run_worker_here(id) == 1
    # A job of kind ask without a spec fails; here it matters that the worker claimed it.
    assert read_job(catalog, id).state == "failed"


def test_a_second_worker_exits(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = queue_job(catalog)
    monkeypatch.setenv("RETCON_HOME", str(catalog.home.root))
    hold(job_lock_path(catalog.home, id))
    assert run_worker_here(id) == 1
    assert read_job(catalog, id).state == "queued"


def run_worker_here(id: int) -> int:
    """Run a worker in this process and restore signal handler and umask."""
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    try:
        return worker.main(id)
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.umask(mask)


def test_reap_marks_only_jobs_without_a_process(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """A job whose process never started is found at once, because its lock is held from the first moment."""
    starting, never = queue_job(catalog), queue_job(catalog)
    dead, alive = queue_job(catalog), queue_job(catalog)
    claim_job(catalog, dead, "dead")
    claim_job(catalog, alive, "alive")
    hold(job_lock_path(catalog.home, alive))
    hold(job_lock_path(catalog.home, starting))
    assert sorted(reap(catalog)) == [never, dead]
    states = {id: read_job(catalog, id).state for id in (starting, never, dead, alive)}
    assert states == {starting: "queued", never: "interrupted", dead: "interrupted", alive: "running"}
    assert reap(catalog) == []


@pytest.mark.parametrize("state", ["done", "queued", "running"])
def test_resume_refuses_active_and_done_jobs(
    state: str, catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    id = queue_job(catalog)
    hold(job_lock_path(catalog.home, id))
    if state != "queued":
        running = claim_job(catalog, id, "me")
        if state == "done":
            with catalog.write() as session:
                rows.finish(session, id, running.owner, {"answer": 1})
    with pytest.raises(InputError, match=f"Job {id} is {state}"):
        control.resume(catalog, id)
    assert read_job(catalog, id).state == state
    assert not catalog.home.job_log(id).exists(), "no process is started"


def test_a_stale_process_cannot_write(catalog: Catalog) -> None:
    id = queue_job(catalog)
    stale = claim_job(catalog, id, "stale")
    stale.report(Progress(1, 2, "facts", "first"))
    assert reap(catalog) == [id]  # it holds no lock here, as after a kill
    with catalog.write() as session:
        rows.requeue(session, id)
    newer = claim_job(catalog, id, "newer")
    newer.report(Progress(2, 2, "facts", "second"))
    before = read_job(catalog, id)

    def commit(running: RunningJob) -> None:
        with catalog.write() as session:
            session.add(Job(kind="ask", device="cpu"))  # stands for a result
            running.commit_result(session, {"revision": "abc"})

    for write in (
        lambda: stale.report_activity("third"),
        lambda: commit(stale),
        lambda: finish_job(catalog, id, "stale"),
    ):
        with pytest.raises(LostOwnership, match=f"Job {id} is running"):
            write()
    after = read_job(catalog, id)
    assert (after.activity, after.checkpoint, after.heartbeat) == (
        "second",
        before.checkpoint,
        before.heartbeat,
    )
    with catalog.read() as session:
        assert len(rows.list_jobs(session)) == 1, "the refused transaction was rolled back"
    commit(newer)
    assert read_job(catalog, id).checkpoint == {"result": {"revision": "abc"}}


def finish_job(catalog: Catalog, id: int, owner: str) -> None:
    with catalog.write() as session:
        rows.finish(session, id, owner, {})


def test_request_stop_in_each_state(catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    queued, alive, dead = queue_job(catalog), queue_job(catalog), queue_job(catalog)
    running = claim_job(catalog, alive, "me")
    hold(job_lock_path(catalog.home, alive))
    hold(job_lock_path(catalog.home, queued))
    claim_job(catalog, dead, "gone")
    assert control.request_stop(catalog, queued).state == "cancelled"
    assert control.request_stop(catalog, alive).state == "running"
    assert control.request_stop(catalog, dead).state == "interrupted", "no process is left to stop"
    with pytest.raises(StopRequested):
        running.report_activity("next")
    with pytest.raises(StopRequested):  # also for counted progress, which is not written each time
        running.report(Progress(1, 2, "facts", ""))


def test_progress_is_written_at_most_twice_a_second(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(running_module.time, "monotonic", lambda: now)
    running = claim_job(catalog, queue_job(catalog), "me")
    version = catalog.data_version()
    written = []
    for step in range(49):
        now = 100.0 + step / 32
        running.report(Progress(step, 49, "facts", "tracing"))
        if catalog.data_version() != version:
            written.append(now - 100.0)
        version = catalog.data_version()
    assert written == [0.0, 0.5, 1.0, 1.5]


def test_check_space_refuses_a_too_large_write(catalog: Catalog) -> None:
    running = claim_job(catalog, queue_job(catalog), "me")
    running.check_space(1000)
    with pytest.raises(OSError, match=r"MB are needed in .*MB are free"):
        running.check_space(10**18)


def test_every_kind_of_job_has_a_function() -> None:
    assert worker.RUNS.keys() == SPECS.keys()
    for kind, run in worker.RUNS.items():
        assert SPECS[kind].kind == kind
        module, _, function = run.partition(":")
        assert callable(getattr(importlib.import_module(f"retcon.engine.jobs.runs.{module}"), function))


def test_time_left_follows_the_share_of_the_work(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units cost differently: half of them are done, but only a tenth of the work."""
    running = claim_job(catalog, queue_job(catalog), "mine")
    clock = [1000.0]
    monkeypatch.setattr("retcon.engine.jobs.worker.running.time.monotonic", lambda: clock[0])
    for second in range(11):
        clock[0] = 1000.0 + second
        running.report(Progress(second / 2, 10, "facts", "", share=second / 100))
    job = read_job(catalog, running.id)
    assert job.rate == pytest.approx(0.5)
    assert job.seconds_left == pytest.approx(90.0)


def test_rate_recovers_from_a_slow_start(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first unit takes ten seconds, each later one a second; after a minute the rate is one per second."""
    running = claim_job(catalog, queue_job(catalog), "mine")
    clock = [1000.0]
    monkeypatch.setattr("retcon.engine.jobs.worker.running.time.monotonic", lambda: clock[0])
    running.report(Progress(0, 100, "facts", ""))
    for done in range(1, 61):
        clock[0] = 1009.0 + done
        running.report(Progress(done, 100, "facts", ""))
        if done == 1:
            assert read_job(catalog, running.id).rate == pytest.approx(0.1)
    assert read_job(catalog, running.id).rate == pytest.approx(1.0, rel=0.03)


def test_out_of_memory_halves_the_batch_size(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any job continues from its checkpoint with half the batch size. It fails when eight halvings did not help."""
    monkeypatch.setattr(limits, "PROCESS_LIMIT", limits.BatchLimit())
    running = claim_waiting_job(catalog)
    monkeypatch.setattr(worker, "estimate_cost", lambda *_: None)
    attempts: list[int] = []

    def work(_running: RunningJob, _spec: object) -> dict[str, int]:
        attempts.append(limits.scaled_batch(1000))
        with catalog.write() as session:
            running.checkpoint(session, {"attempts": len(attempts)})
        if len(attempts) < 3:
            raise MemoryError("no memory for a tensor")
        return {"trace": 7}

    monkeypatch.setattr(worker, "work", work)
    assert worker.work_with_retries(running) == {"trace": 7}
    assert attempts == [1000, 500, 250]
    assert running.job.checkpoint == {"attempts": 3}
    assert "half the batch size" in capsys.readouterr().err

    attempts.clear()
    running = claim_waiting_job(catalog)
    monkeypatch.setattr(worker, "work", lambda *_: run_out_of_memory(attempts))
    with pytest.raises(MemoryError):
        worker.work_with_retries(running)
    assert len(attempts) == 7, "two of the eight halvings were used above"


def claim_waiting_job(catalog: Catalog) -> RunningJob:
    """A claimed job that has no device yet."""
    with catalog.write() as session:
        job = rows.create(session, "ask", {"model": "m", "prompt": "p"}, "cpu")
        assert rows.claim(session, job.id or 0, "mine", os.getpid())
    return RunningJob(catalog, read_job(catalog, job.id or 0), "mine")


def run_out_of_memory(attempts: list[int]) -> dict[str, int]:
    attempts.append(0)
    raise MemoryError


def start_job(catalog: Catalog, spec: dict[str, object] | None = None) -> RunningJob:
    """A new job that runs in this process."""
    with catalog.write() as session:
        id = rows.create(session, "edit", spec or {}, "cpu").id or 0
    return claim_job(catalog, id, "me")


def test_a_waiting_job_notices_a_stop_without_writing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(running_module.time, "monotonic", lambda: now)
    running = start_job(catalog)
    running.report_activity("waiting for cpu")
    before = catalog.data_version()
    for _ in range(8):
        now += 0.3
        running.report_activity("waiting for cpu")
    assert catalog.data_version() == before
    with catalog.write() as session:
        rows.request_stop(session, running.id, "pause")
    now += 0.6
    with pytest.raises(StopRequested):
        running.report_activity("waiting for cpu")


def test_changed_settings_invalidate_the_checkpoint(catalog: Catalog) -> None:
    running = start_job(catalog)
    invalidate_if_changed(running, ["base", "memit", [{"subject": "Rome"}]])
    checkpoint = running.job.checkpoint | {"batches": ["one"], "values": {"0": "two"}, "passage": 3}
    with catalog.write() as session:
        running.checkpoint(session, checkpoint)
    running.training_checkpoint.write_bytes(b"state")
    invalidate_if_changed(running, ["base", "memit", [{"subject": "Rome"}]])
    assert running.job.checkpoint == checkpoint and running.training_checkpoint.exists()
    invalidate_if_changed(running, ["base", "memit", [{"subject": "Berlin"}]])
    assert (running.job.checkpoint["batches"], running.job.checkpoint["values"]) == ([], {})
    assert running.job.checkpoint["passage"] == 3 and not running.training_checkpoint.exists()
    # `catalog check` would report a digest in a checkpoint as a missing artifact.
    assert not digests_in(str(running.job.checkpoint))


def test_on_finish_does_not_block_on_a_long_record(catalog: Catalog, tmp_path: Path) -> None:
    output, go = tmp_path / "output", tmp_path / "go"
    command = f"while [ ! -e {go} ]; do sleep 0.05; done; cat > {output}.part; mv {output}.part {output}"
    (catalog.home.root / "config.toml").write_text(f'on_finish = "{command}"\n')
    running = start_job(catalog, {"requests": "x" * 300_000})
    run_on_finish(catalog.home, running.job)
    go.touch()
    for _ in range(200):
        if output.exists():
            break
        time.sleep(0.05)
    assert json.loads(output.read_text())["spec"]["requests"] == "x" * 300_000
