"""The queue of a device: order, priority, pause, stop, `on_finish`, and a full disk."""

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import Retcon, RetconProcess, wait_for

pytestmark = pytest.mark.slow

# About a second per fact on one core: long enough to interrupt it.
LONG = ("trace", "run", "tiny", "--facts", "known", "--samples", 1000)
SHORT = ("trace", "run", "tiny", "--facts", "mixed", "--samples", 2)


@pytest.fixture
def retcon(template_home: Path, tmp_path: Path) -> RetconProcess:
    """The installed command line, whose jobs are processes."""
    return RetconProcess(template_home).copy(tmp_path / "home")


def wait_until_running(retcon: Retcon, id: int, done: float = 0.5) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(
        lambda: Retcon(retcon.home).job(id), lambda job: job["state"] == "running" and job["done"] >= done
    )
    return found


def results(retcon: Retcon, trace: int) -> list[dict[str, Any]]:
    return retcon.children("trace_result", "trace_id", trace)


def test_jobs_run_by_priority_then_by_age(retcon: Retcon) -> None:
    first = retcon.json(*LONG, "--detach")["id"]
    process = wait_until_running(retcon, first)["pid"]
    os.kill(process, signal.SIGSTOP)
    second, third, fourth = (retcon.json(*SHORT, "--detach")["id"] for _ in range(3))
    for id in (second, third, fourth):
        retcon.wait_for(id, "waiting")
    record = wait_for(lambda: Retcon(retcon.home).job(third), lambda job: "after job" in job["activity"])
    assert record["activity"] == f"waiting for cpu, after job {second}"
    assert retcon.json("job", "priority", fourth, 5)["priority"] == 5
    # A job that is killed while it waits does not block the queue.
    os.kill(Retcon(retcon.home).job(second)["pid"], signal.SIGKILL)
    os.kill(process, signal.SIGCONT)
    ended = {id: retcon.wait_for(id, "done", "failed") for id in (first, fourth, third)}
    assert [ended[id]["state"] for id in ended] == ["done"] * 3
    # A job releases its device a moment before its row is marked as done.
    assert ended[first]["started"] <= ended[fourth]["started"] <= ended[third]["started"]
    assert retcon.job(second)["state"] == "interrupted"
    assert "only queued jobs have a priority" in retcon.refused("job", "priority", first, 1)


@pytest.mark.proof
def test_a_paused_job_resumes_from_its_checkpoint(retcon: Retcon) -> None:
    """Its device is free in between, and finished facts are not traced again."""
    undisturbed = retcon.json(*LONG)
    id = retcon.json(*LONG, "--detach")["id"]
    wait_until_running(retcon, id, 3)
    paused = retcon.json("job", "pause", id)
    assert (paused["state"], paused["stop_request"]) == ("paused", "pause")
    assert retcon.json(*SHORT)["results"]
    resumed = retcon.json("job", "resume", id)
    assert (resumed["state"], resumed["stop_request"], resumed["attempt"]) == ("done", None, 2)
    assert resumed["memory"] > 0
    assert results(retcon, resumed["trace"]) == results(retcon, undisturbed["trace"])


def test_a_job_that_does_not_stop_is_killed(retcon: Retcon) -> None:
    """A halted job reaches no checkpoint and handles no SIGTERM. The command prints each step."""
    id = retcon.json(*LONG, "--detach")["id"]
    os.kill(wait_until_running(retcon, id)["pid"], signal.SIGSTOP)
    output = retcon.say("job", "cancel", id, "--grace", 1)
    assert output.code == 0
    assert output.err.splitlines() == [
        f"Job {id} stops at its next checkpoint.",
        "It reached no checkpoint in 1 s. Sending SIGTERM.",
        "It has not ended after another 1 s. Sending SIGKILL.",
        f"Job {id} is cancelled.",
    ]
    # A reboot sends SIGTERM to all processes. The job is then interrupted, and `--all` resumes it.
    other = retcon.json(*LONG, "--detach")["id"]
    os.kill(wait_until_running(retcon, other)["pid"], signal.SIGTERM)
    assert retcon.wait_for(other, "interrupted", "cancelled", "failed", "done")["state"] == "interrupted"
    assert retcon.json("job", "resume", "--all") == {"resumed": [other]}
    assert retcon.wait_for(other, "done", "failed")["state"] == "done"
    assert retcon.json("job", "resume", "--all") == {"resumed": []}
    assert "give one job id, or --all" in retcon.say("job", "resume").err


def test_on_finish_gets_each_job_that_ends(retcon: Retcon, tmp_path: Path) -> None:
    path = tmp_path / "record"
    config = retcon.home / "config.toml"
    config.write_text(f'on_finish = "cat > {path}.$$; echo heard; mv {path}.$$ {path}.done"\n')
    done = retcon.json(*SHORT)
    record = json.loads(wait_for(lambda: Path(f"{path}.done"), Path.exists).read_text())
    assert (record["kind"], record["state"], record["trace"]) == ("trace", "done", done["trace"])
    Path(f"{path}.done").unlink()
    id = retcon.json(*LONG, "--detach")["id"]
    os.kill(wait_until_running(retcon, id)["pid"], signal.SIGKILL)
    # The job is dead, so the process that marks it as interrupted runs the command.
    assert retcon.wait_for(id, "interrupted")["id"] == id
    assert (
        json.loads(wait_for(lambda: Path(f"{path}.done"), Path.exists).read_text())["state"] == "interrupted"
    )
    assert "heard" in retcon("job", "log", id)
    for text, says in (
        ("on_finish = 3", "field 'on_finish' is 3"),
        ("on_end = 'x'", "unknown field 'on_end'"),
        ("on_finish = ", "cannot be read"),
    ):
        config.write_text(text)
        refused = retcon.say(*SHORT)
        assert refused.code == 2
        assert "config.toml" in refused.sentence
        assert says in refused.sentence


@pytest.fixture
def small_disk(retcon: Retcon, tmp_path: Path) -> Iterator[Retcon]:
    """The same home on its own disk of 120 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield retcon.copy(disk / "home")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.proof
def test_a_job_waits_while_the_disk_is_full(small_disk: Retcon) -> None:
    undisturbed = small_disk.json(*LONG)
    id = small_disk.json(*LONG, "--detach")["id"]
    wait_until_running(small_disk, id, 2)
    filler = small_disk.home.parent / "filler"
    fill(filler)
    log = small_disk.home / "logs" / f"job-{id}.log"
    # The job releases its device and stays alive.
    lock = small_disk.home.parent / "retcon-device-cpu.lock"
    wait_for(
        lambda: subprocess.run(["flock", "-n", lock, "true"], check=False).returncode, lambda rc: rc == 0
    )
    assert Retcon(small_disk.home).job(id)["state"] in ("running", "waiting"), log.read_text()
    filler.unlink()
    ended = small_disk.wait_for(id, "done", "failed", "interrupted")
    assert (ended["state"], ended["attempt"]) == ("done", 1)
    assert results(small_disk, ended["trace"]) == results(small_disk, undisturbed["trace"])
    with sqlite3.connect(small_disk.home / "catalog.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def fill(path: Path) -> None:
    """Fill the disk to the last block."""
    size = 1 << 20
    with path.open("wb", buffering=0) as file:
        while size >= 512:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
