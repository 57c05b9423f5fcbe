"""Who lives, who is dead, and who may write: jobs without any work in them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from retcon.engine.errors import StopRequested
from retcon.engine.jobs import control
from retcon.engine.jobs.locks import (
    device_lock_path,
    hold_lock,
    is_descriptor_of,
    is_locked,
    job_lock_path,
    try_lock,
)
from retcon.engine.jobs.notice import run_on_finish
from retcon.engine.jobs.reap import reap
from retcon.engine.jobs.runs.edit_checkpoint import invalidate_if_changed
from retcon.engine.jobs.specs import SPECS
from retcon.engine.jobs.worker import __main__ as worker
from retcon.engine.jobs.worker import running as running_module
from retcon.engine.jobs.worker.queue import _take
from retcon.engine.jobs.worker.running import RunningJob
from retcon.engine.model import limits
from retcon.engine.progress import Progress
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.store.errors import InputError, LostOwnership
from retcon.store.maintenance.references import digests_in


def queued(catalog: Catalog) -> int:
    with catalog.write() as session:
        job = rows.create(session, "ask", {}, "cpu")
    assert job.id is not None
    return job.id


def look(catalog: Catalog, id: int) -> Job:
    with catalog.read() as session:
        return rows.get(session, id)


def claimed(catalog: Catalog, id: int, owner: str) -> RunningJob:
    with catalog.write() as session:
        assert rows.claim(session, id, owner, os.getpid())
        rows.mark_running(session, id, owner)
    return RunningJob(catalog, look(catalog, id), owner)


def test_a_lock_is_held_until_its_process_is_killed(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    path = job_lock_path(catalog.home, 1)
    assert not is_locked(path) and not path.exists()
    holder = hold(path)
    assert is_locked(path) and is_locked(path)
    with try_lock(path) as taken:
        assert not taken
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_locked(path)


def test_who_looks_is_not_taken_for_a_holder(catalog: Catalog) -> None:
    """Many look at once (the app, two terminals); none of them may say that a dead job lives."""
    path = job_lock_path(catalog.home, 1)
    path.touch()
    looker = "import sys; from pathlib import Path; from retcon.engine.jobs.locks import is_locked\n"
    looker += "sys.stdin.readline(); print(any(is_locked(Path(sys.argv[1])) for _ in range(20_000)))"
    lookers = [
        subprocess.Popen(
            [sys.executable, "-c", looker, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for one in lookers:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    assert [one.communicate()[0] for one in lookers] == ["False\n"] * 2


def test_waiting_for_a_lock_leaves_nothing_open(catalog: Catalog) -> None:
    """A job may wait for its device for a week, three looks a second."""
    path = device_lock_path(catalog.home, "cpu")
    with try_lock(path) as taken, ExitStack() as stack:
        assert taken
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert not any(_take(path, stack) for _ in range(50))
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_worker_outwaits_one_who_only_looks(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that looks at the very moment when the worker comes up must not turn it away."""
    id = queued(catalog)
    monkeypatch.setenv("RETCON_HOME", str(catalog.home.root))
    with ExitStack() as looking:
        assert looking.enter_context(try_lock(job_lock_path(catalog.home, id)))
        threading.Timer(0.3, looking.pop_all().close).start()
        assert in_this_process(id) == 1
    # An ask without a spec can only fail; it was claimed, which is what matters.
    assert look(catalog, id).state == "failed"


def test_a_second_worker_gives_up(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = queued(catalog)
    monkeypatch.setenv("RETCON_HOME", str(catalog.home.root))
    hold(job_lock_path(catalog.home, id))
    assert in_this_process(id) == 1
    assert look(catalog, id).state == "queued"


def in_this_process(id: int) -> int:
    """Do a worker's work here, and leave the process as it was."""
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    try:
        return worker.main(id)
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.umask(mask)


def test_only_a_job_without_a_process_is_reaped(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """One whose process never came up is found at once: who starts it holds its lock for it from the first moment."""
    starting, never = queued(catalog), queued(catalog)
    dead, alive = queued(catalog), queued(catalog)
    claimed(catalog, dead, "dead")
    claimed(catalog, alive, "alive")
    hold(job_lock_path(catalog.home, alive))
    hold(job_lock_path(catalog.home, starting))
    assert sorted(reap(catalog)) == [never, dead]
    states = {id: look(catalog, id).state for id in (starting, never, dead, alive)}
    assert states == {starting: "queued", never: "interrupted", dead: "interrupted", alive: "running"}
    assert reap(catalog) == []


def test_a_lock_is_handed_over(catalog: Catalog) -> None:
    """There is no moment at which nobody holds it, though who held it first has let go."""
    path = job_lock_path(catalog.home, 1)
    script = "import sys, time; print('up', flush=True); time.sleep(600)"
    with hold_lock(path) as descriptor:
        assert is_descriptor_of(descriptor, path) and not is_descriptor_of(
            descriptor, job_lock_path(catalog.home, 2)
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script], pass_fds=(descriptor,), stdout=subprocess.PIPE
        )
    assert is_locked(path)
    with pytest.raises(BlockingIOError), hold_lock(path, patience=0.1):
        pass
    child.kill()
    child.communicate()
    assert not is_locked(path)
    assert not is_descriptor_of(descriptor, path), "it is closed here"


@pytest.mark.parametrize("state", ["done", "queued", "running"])
def test_what_cannot_be_resumed(
    state: str, catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    id = queued(catalog)
    hold(job_lock_path(catalog.home, id))
    if state != "queued":
        running = claimed(catalog, id, "me")
        if state == "done":
            with catalog.write() as session:
                rows.finish(session, id, running.owner, {"answer": 1})
    with pytest.raises(InputError, match=f"Job {id} is {state}"):
        control.resume(catalog, id)
    assert look(catalog, id).state == state
    assert not catalog.home.job_log(id).exists(), "a process was started"


def test_a_stale_process_cannot_write(catalog: Catalog) -> None:
    id = queued(catalog)
    stale = claimed(catalog, id, "stale")
    stale.report(Progress(1, 2, "facts", "first"))
    assert reap(catalog) == [id]  # it holds no lock here, as if the kernel had let go of it
    with catalog.write() as session:
        rows.requeue(session, id)
    newer = claimed(catalog, id, "newer")
    newer.report(Progress(2, 2, "facts", "second"))
    before = look(catalog, id)

    def commit(running: RunningJob) -> None:
        with catalog.write() as session:
            session.add(Job(kind="ask", device="cpu"))  # stands for a result
            running.commit_result(session, {"revision": "abc"})

    for write in (
        lambda: stale.report_activity("third"),
        lambda: commit(stale),
        lambda: rows_finish(catalog, id, "stale"),
    ):
        with pytest.raises(LostOwnership, match=f"Job {id} is running"):
            write()
    after = look(catalog, id)
    assert (after.activity, after.checkpoint, after.heartbeat) == (
        "second",
        before.checkpoint,
        before.heartbeat,
    )
    with catalog.read() as session:
        assert len(rows.list_jobs(session)) == 1, "what came with the refused write was kept"
    commit(newer)
    assert look(catalog, id).checkpoint == {"result": {"revision": "abc"}}


def rows_finish(catalog: Catalog, id: int, owner: str) -> None:
    with catalog.write() as session:
        rows.finish(session, id, owner, {})


def test_cancelling(catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    waiting, alive, dead = queued(catalog), queued(catalog), queued(catalog)
    running = claimed(catalog, alive, "me")
    hold(job_lock_path(catalog.home, alive))
    hold(job_lock_path(catalog.home, waiting))
    claimed(catalog, dead, "gone")
    assert control.request_stop(catalog, waiting).state == "cancelled"
    assert control.request_stop(catalog, alive).state == "running"
    assert control.request_stop(catalog, dead).state == "interrupted", "nobody is there who could stop"
    with pytest.raises(StopRequested):
        running.report_activity("next")
    with pytest.raises(StopRequested):  # also where progress is counted and written only now and then
        running.report(Progress(1, 2, "facts", ""))


def test_progress_is_written_at_most_twice_a_second(catalog: Catalog) -> None:
    running = claimed(catalog, queued(catalog), "me")
    version = catalog.data_version()
    written = 0
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        running.report(Progress(until - time.monotonic(), 2, "facts", "tracing"))
        written += catalog.data_version() != version
        version = catalog.data_version()
    assert 1 <= written <= 3


def test_room_on_the_disk(catalog: Catalog) -> None:
    running = claimed(catalog, queued(catalog), "me")
    running.check_space(1000)
    with pytest.raises(OSError, match=r"MB are needed in .*MB are free"):
        running.check_space(10**18)


def test_every_kind_of_job_has_what_runs_it() -> None:
    import importlib

    from retcon.engine.jobs.worker.__main__ import RUNS

    assert RUNS.keys() == SPECS.keys()
    for kind, run in RUNS.items():
        assert SPECS[kind].kind == kind
        module, _, function = run.partition(":")
        assert callable(getattr(importlib.import_module(f"retcon.engine.jobs.runs.{module}"), function))


def test_the_time_left_is_told_from_the_share_of_the_work(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that cost differently: half of them are done, but a tenth of the work."""
    running = claimed(catalog, queued(catalog), "mine")
    clock = [1000.0]
    monkeypatch.setattr("retcon.engine.jobs.worker.running.time.monotonic", lambda: clock[0])
    for second in range(11):
        clock[0] = 1000.0 + second
        running.report(Progress(second / 2, 10, "facts", "", share=second / 100))
    job = look(catalog, running.id)
    assert job.rate == pytest.approx(0.5)
    assert job.seconds_left == pytest.approx(90.0)


def test_a_slow_beginning_is_outgrown(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first unit took ten seconds, each of the others one: the rate says so after a minute."""
    running = claimed(catalog, queued(catalog), "mine")
    clock = [1000.0]
    monkeypatch.setattr("retcon.engine.jobs.worker.running.time.monotonic", lambda: clock[0])
    running.report(Progress(0, 100, "facts", ""))
    for done in range(1, 61):
        clock[0] = 1009.0 + done
        running.report(Progress(done, 100, "facts", ""))
        if done == 1:
            assert look(catalog, running.id).rate == pytest.approx(0.1)
    assert look(catalog, running.id).rate == pytest.approx(1.0, rel=0.03)


def test_out_of_memory_halves_what_is_run_at_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the kind of job: it goes on from its checkpoint with half as much, and gives up when that is no help."""
    monkeypatch.setattr(limits, "PROCESS_LIMIT", limits.BatchLimit())
    running = waiting(catalog)
    monkeypatch.setattr(worker, "estimate_cost", lambda *_: None)
    tried: list[int] = []

    def work(_running: RunningJob, _spec: object) -> dict[str, int]:
        tried.append(limits.scaled_batch(1000))
        with catalog.write() as session:
            running.checkpoint(session, {"attempts": len(tried)})
        if len(tried) < 3:
            raise MemoryError("no room for a tensor")
        return {"trace": 7}

    monkeypatch.setattr(worker, "_work", work)
    assert worker._work_with_retries(running) == {"trace": 7}
    assert tried == [1000, 500, 250]
    assert running.job.checkpoint == {"attempts": 3}
    assert "half the batch size" in capsys.readouterr().err

    tried.clear()
    running = waiting(catalog)
    monkeypatch.setattr(worker, "_work", lambda *_: work(running, None) if len(tried) > 99 else never(tried))
    with pytest.raises(MemoryError):
        worker._work_with_retries(running)
    assert len(tried) == 7, "two halvings were used up above, and there are eight"


def waiting(catalog: Catalog) -> RunningJob:
    """A job that was claimed and has no device yet."""
    with catalog.write() as session:
        job = rows.create(session, "ask", {"model": "m", "prompt": "p"}, "cpu")
        assert rows.claim(session, job.id or 0, "mine", os.getpid())
    return RunningJob(catalog, look(catalog, job.id or 0), "mine")


def never(tried: list[int]) -> dict[str, int]:
    tried.append(0)
    raise MemoryError


def works_at(catalog: Catalog, spec: dict[str, object] | None = None) -> RunningJob:
    """A new job that this process works at."""
    with catalog.write() as session:
        id = rows.create(session, "edit", spec or {}, "cpu").id or 0
    return claimed(catalog, id, "me")


def test_who_waits_writes_nothing_again_and_hears_who_wants_it_to_stop(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(running_module.time, "monotonic", lambda: now)
    running = works_at(catalog)
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
    running = works_at(catalog)
    invalidate_if_changed(running, ["base", "memit", [{"subject": "Rome"}]])
    kept = running.job.checkpoint | {"batches": ["one"], "values": {"0": "two"}, "passage": 3}
    with catalog.write() as session:
        running.checkpoint(session, kept)
    running.training_checkpoint.write_bytes(b"state")
    invalidate_if_changed(running, ["base", "memit", [{"subject": "Rome"}]])
    assert running.job.checkpoint == kept and running.training_checkpoint.exists()
    invalidate_if_changed(running, ["base", "memit", [{"subject": "Berlin"}]])
    assert (running.job.checkpoint["batches"], running.job.checkpoint["values"]) == ([], {})
    assert running.job.checkpoint["passage"] == 3 and not running.training_checkpoint.exists()
    # Whatever looks like an artifact in a checkpoint would be missed by `catalog check`.
    assert not digests_in(str(running.job.checkpoint))


def test_a_long_record_does_not_wait_for_who_does_not_read_it(catalog: Catalog, tmp_path: Path) -> None:
    told, go = tmp_path / "told", tmp_path / "go"
    command = f"while [ ! -e {go} ]; do sleep 0.05; done; cat > {told}.part; mv {told}.part {told}"
    (catalog.home.root / "config.toml").write_text(f'on_finish = "{command}"\n')
    running = works_at(catalog, {"requests": "x" * 300_000})
    run_on_finish(catalog.home, running.job)
    go.touch()
    for _ in range(200):
        if told.exists():
            break
        time.sleep(0.05)
    assert json.loads(told.read_text())["spec"]["requests"] == "x" * 300_000
