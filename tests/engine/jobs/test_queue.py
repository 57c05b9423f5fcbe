"""Jobs in line: who is served first, how one is stopped, and what happens where the disk is full."""

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

# About a second a fact on one core: long enough to be caught in the middle.
LONG = ("trace", "run", "tiny", "--facts", "known", "--samples", 1000)
SHORT = ("trace", "run", "tiny", "--facts", "mixed", "--samples", 2)


@pytest.fixture
def retcon(template_home: Path, tmp_path: Path) -> RetconProcess:
    """The installed command line, whose jobs are processes."""
    return RetconProcess(template_home).copy(tmp_path / "home")


def under_way(retcon: Retcon, id: int, done: float = 0.5) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(
        lambda: Retcon(retcon.home).job(id), lambda job: job["state"] == "running" and job["done"] >= done
    )
    return found


def results(retcon: Retcon, trace: int) -> list[dict[str, Any]]:
    return retcon.children("trace_result", "trace_id", trace)


def test_first_come_first_served_but_for_priority(retcon: Retcon) -> None:
    first = retcon.json(*LONG, "--detach")["id"]
    process = under_way(retcon, first)["pid"]
    os.kill(process, signal.SIGSTOP)
    second, third, fourth = (retcon.json(*SHORT, "--detach")["id"] for _ in range(3))
    for id in (second, third, fourth):
        retcon.wait_for(id, "waiting")
    told = wait_for(lambda: Retcon(retcon.home).job(third), lambda job: "after job" in job["activity"])
    assert told["activity"] == f"waiting for cpu, after job {second}"
    assert retcon.json("job", "priority", fourth, 5)["priority"] == 5
    # One that is killed while it waits holds nobody up.
    os.kill(Retcon(retcon.home).job(second)["pid"], signal.SIGKILL)
    os.kill(process, signal.SIGCONT)
    ended = {id: retcon.wait_for(id, "done", "failed") for id in (first, fourth, third)}
    assert [ended[id]["state"] for id in ended] == ["done"] * 3
    # A job lets go of its device a moment before its row says that it has ended.
    assert ended[first]["started"] <= ended[fourth]["started"] <= ended[third]["started"]
    assert retcon.job(second)["state"] == "interrupted"
    assert "has a place in line" in retcon.refused("job", "priority", first, 1)


def test_paused_and_resumed(retcon: Retcon) -> None:
    """Its device is free meanwhile, and what it had done is not done again."""
    undisturbed = retcon.json(*LONG)
    id = retcon.json(*LONG, "--detach")["id"]
    under_way(retcon, id, 3)
    paused = retcon.json("job", "pause", id)
    assert (paused["state"], paused["stop_request"]) == ("paused", "pause")
    assert retcon.json(*SHORT)["results"]
    resumed = retcon.json("job", "resume", id)
    assert (resumed["state"], resumed["stop_request"], resumed["attempt"]) == ("done", None, 2)
    assert resumed["memory"] > 50e6
    assert results(retcon, resumed["trace"]) == results(retcon, undisturbed["trace"])


def test_one_that_does_not_stop_is_killed(retcon: Retcon) -> None:
    """Halted, it reaches no checkpoint and does not hear SIGTERM; each step is told."""
    id = retcon.json(*LONG, "--detach")["id"]
    os.kill(under_way(retcon, id)["pid"], signal.SIGSTOP)
    said = retcon.say("job", "cancel", id, "--grace", 1)
    assert said.code == 0
    assert said.err.splitlines() == [
        f"Job {id} stops at its next checkpoint.",
        "It reached no checkpoint in 1 s. Sending SIGTERM.",
        "It has not ended after another 1 s. Sending SIGKILL.",
        f"Job {id} is cancelled.",
    ]
    # A reboot says SIGTERM to all. Nobody asked for that: the job is interrupted, and `--all` takes it up.
    other = retcon.json(*LONG, "--detach")["id"]
    os.kill(under_way(retcon, other)["pid"], signal.SIGTERM)
    assert retcon.wait_for(other, "interrupted", "cancelled", "failed", "done")["state"] == "interrupted"
    assert retcon.json("job", "resume", "--all") == {"resumed": [other]}
    assert retcon.wait_for(other, "done", "failed")["state"] == "done"
    assert retcon.json("job", "resume", "--all") == {"resumed": []}
    assert "name one job, or --all" in retcon.say("job", "resume").err


def test_a_command_of_the_users_is_given_each_job_that_ends(retcon: Retcon, tmp_path: Path) -> None:
    told = tmp_path / "told"
    config = retcon.home / "config.toml"
    config.write_text(f'on_finish = "cat > {told}.$$; echo heard; mv {told}.$$ {told}.done"\n')
    done = retcon.json(*SHORT)
    record = json.loads(wait_for(lambda: Path(f"{told}.done"), Path.exists).read_text())
    assert (record["kind"], record["state"], record["trace"]) == ("trace", "done", done["trace"])
    Path(f"{told}.done").unlink()
    id = retcon.json(*LONG, "--detach")["id"]
    os.kill(under_way(retcon, id)["pid"], signal.SIGKILL)
    # Nobody is left to tell it but who finds the job dead.
    assert retcon.wait_for(id, "interrupted")["id"] == id
    assert (
        json.loads(wait_for(lambda: Path(f"{told}.done"), Path.exists).read_text())["state"] == "interrupted"
    )
    assert "heard" in retcon("job", "log", id)
    for text, says in (
        ("on_finish = 3", "which is no text"),
        ("on_end = 'x'", "what can be set is on_finish"),
        ("on_finish = ", "cannot be read"),
    ):
        config.write_text(text)
        refused = retcon.say(*SHORT)
        assert refused.code == 2
        assert "config.toml" in refused.sentence
        assert says in refused.sentence


@pytest.fixture
def small_disk(retcon: Retcon, tmp_path: Path) -> Iterator[Retcon]:
    """The same home on a disk of 120 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk of its own needs the right to mount one")
    try:
        yield retcon.copy(disk / "home")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_full_disk_pauses_a_job_until_there_is_room(small_disk: Retcon) -> None:
    undisturbed = small_disk.json(*LONG)
    id = small_disk.json(*LONG, "--detach")["id"]
    under_way(small_disk, id, 2)
    filler = small_disk.home.parent / "filler"
    fill(filler)
    log = small_disk.home / "logs" / f"job-{id}.log"
    # It gives its device back, and is alive.
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
    """Take all the room there is, to the last block."""
    size = 1 << 20
    with path.open("wb", buffering=0) as file:
        while size >= 512:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
