"""Jobs as processes: they outlive their command, wait for devices, stop on request, and resume after a kill."""

import json
import os
import pty
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from retcon.engine.edits import HPARAMS
from retcon.tests.helpers.command_line import Retcon, RetconProcess, wait_for

pytestmark = pytest.mark.slow

# About half a second per fact on one core: long enough to interrupt it.
LONG = ("trace", "run", "tiny", "--facts", "known", "--samples", 400)
SHORT = ("trace", "run", "tiny", "--facts", "mixed", "--samples", 2)
# A slow value search, and settings with which a tiny random model can be edited.
SLOW = {"v_num_grad_steps": 60, "contexts": 3}
EASY = {"v_lr": 0.05, "clamp_norm_factor": 4, "mom2_update_weight": 1, "nullspace_threshold": 1, "L2": 1}


@pytest.fixture
def retcon(template_home: Path, tmp_path: Path) -> RetconProcess:
    """The installed command line, whose jobs are processes."""
    return RetconProcess(template_home).copy(tmp_path / "home")


def newest(retcon: Retcon) -> dict[str, Any]:
    found: dict[str, Any] = Retcon(retcon.home).json("job", "list")["jobs"][0]
    return found


def wait_until_running(retcon: Retcon, done: float = 0.5) -> dict[str, Any]:
    """The newest job, once it is running and has done this much."""
    found: dict[str, Any] = wait_for(
        lambda: newest(retcon), lambda job: job["state"] == "running" and job["total"] and job["done"] >= done
    )
    return found


def results(retcon: Retcon, trace: int) -> list[dict[str, Any]]:
    """The rows of a trace without their ids: its facts in order, then its average effects."""
    return [
        row
        for table in ("trace_result", "average_effect")
        for row in retcon.children(table, "trace_id", trace)
    ]


def test_a_job_outlives_its_command_and_terminal(retcon: Retcon) -> None:
    """One command is killed, another loses its terminal. Both jobs finish, one after the other."""
    killed = retcon.start(*LONG)
    first = wait_until_running(retcon)
    assert os.getsid(first["pid"]) == first["pid"], (
        "the job is in its own session, so that it gets no signal of a terminal"
    )
    killed.kill()
    killed.communicate()

    controller, terminal = pty.openpty()
    hung_up = retcon.start(
        *SHORT, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=lambda: take_terminal(terminal)
    )
    os.close(terminal)
    second = wait_for(
        lambda: newest(retcon), lambda job: job["id"] != first["id"] and job["state"] != "queued"
    )
    assert second["state"] == "waiting"
    os.close(controller)  # SIGHUP, as when the SSH connection drops
    assert hung_up.wait(60) != 0
    assert retcon.wait_for(first["id"], "done", "failed", "interrupted")["state"] == "done"
    ended = retcon.wait_for(second["id"], "done", "failed", "interrupted")
    assert ended["state"] == "done"
    # A job that has ended gives the same record at once.
    assert retcon.json("job", "watch", second["id"]) == ended


def take_terminal(terminal: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_ctrl_c_detaches(retcon: Retcon) -> None:
    command = retcon.start(*SHORT)
    job = wait_for(lambda: newest(retcon), lambda job: job["kind"] == "trace" and job["state"] == "running")
    os.kill(job["pid"], signal.SIGSTOP)  # so that it does not end before Ctrl-C
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)
    os.kill(job["pid"], signal.SIGCONT)
    assert (command.returncode, out) == (130, "")
    assert f"Detached from job {job['id']}. It is still running." in err.splitlines()[-1]
    assert "Traceback" not in err
    assert retcon.wait_for(job["id"], "done", "failed", "interrupted")["state"] == "done"


def result_rows(retcon: Retcon, trace: int) -> dict[int, dict[str, Any]]:
    """The rows of a trace's results by the position of their fact."""
    rows = [row for row in retcon.rows()["trace_result"] if row["trace_id"] == trace]
    return {row["position"]: row for row in rows}


@pytest.mark.proof
def test_a_trace_killed_four_times_gives_the_same_rows(retcon: Retcon) -> None:
    """Four kills at random moments: while the model loads, and during facts."""
    generator = random.Random(7)
    undisturbed = retcon.json(*LONG)
    trace = undisturbed["trace"] + 1
    job = retcon.json(*LONG, "--detach")
    checkpoint: dict[int, dict[str, Any]] = {}
    for attempt, facts in enumerate((0, 2, 4, 7), 1):
        running = wait_until_running(retcon, facts) if facts else retcon.wait_for(job["id"], "running")
        time.sleep(generator.uniform(0, 0.5))
        os.kill(running["pid"], signal.SIGKILL)
        dead = retcon.wait_for(job["id"], "interrupted", "done")
        assert (dead["state"], dead["attempt"]) == ("interrupted", attempt), "the job ended before the kill"
        now = {position: row for position, row in result_rows(retcon, trace).items() if row["is_complete"]}
        assert facts <= len(now) < 12
        assert all(now[place] == row for place, row in checkpoint.items()), "a finished fact was traced again"
        checkpoint = now
        make_older(retcon, job["id"])  # as if it had been interrupted the day before
        retcon.json("job", "resume", job["id"], "--detach")

    ended = retcon.wait_for(job["id"], "done", "failed", "interrupted")
    assert (ended["state"], ended["attempt"], ended["error"]) == ("done", 5, None)
    assert (ended["trace"], ended["total"]) == (trace, 12)
    assert results(retcon, trace) == results(retcon, undisturbed["trace"])
    assert retcon.json("trace", "show", trace)["results"] == undisturbed["results"]
    now = result_rows(retcon, trace)
    assert all(now[place] == row for place, row in checkpoint.items()), "a finished fact was traced again"


def make_older(retcon: Retcon, id: int) -> None:
    connection = sqlite3.connect(retcon.home / "catalog.db")
    connection.execute("UPDATE job SET created = datetime(created, '-1 hour') WHERE id = ?", (id,))
    connection.commit()
    connection.close()


def checkpoint_of(retcon: Retcon, id: int) -> dict[str, Any]:
    with sqlite3.connect(f"{(retcon.home / 'catalog.db').as_uri()}?mode=ro", uri=True) as connection:
        checkpoint: dict[str, Any] = json.loads(
            connection.execute("SELECT checkpoint FROM job WHERE id = ?", (id,)).fetchone()[0]
        )
    connection.close()
    return checkpoint


def test_a_killed_covariance_resumes_to_the_same_bits(retcon: Retcon, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    words = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born".split()  # noqa: SIM905
    rows = [" ".join(words[(3 * n + n // 7 * i) % len(words)] for i in range(60)) for n in range(20_000)]
    texts.write_text("\n".join(rows))
    collect = ("covariance", "run", "tiny", "--layers", "1-3", "--texts", texts, "--max-tokens", 300_000)
    job = retcon.json(*collect, "--until-converged", 1e-9, "--detach")
    pid = wait_until_running(retcon, 1)["pid"]
    wait_for(
        lambda: checkpoint_of(retcon, job["id"]), lambda checkpoint: checkpoint.get("tokens", 0) > 20_000
    )
    os.kill(pid, signal.SIGKILL)
    assert retcon.wait_for(job["id"], "interrupted", "done")["state"] == "interrupted"
    assert retcon.json("covariance", "list") == {"covariances": []}
    ended = retcon.json("job", "resume", job["id"])
    undisturbed = retcon.json(*collect)["covariances"]
    resumed = [retcon.json("covariance", "show", id) for id in ended["covariances"]]
    assert [one["artifact"] for one in resumed] == [one["artifact"] for one in undisturbed]
    assert [one["curve"] for one in resumed] == [one["curve"] for one in undisturbed]
    assert all(len(one["curve"]) > 3 for one in resumed)
    assert [one["tokens"] for one in resumed] == [300_000] * 3
    assert len(retcon.json("covariance", "list")["covariances"]) == 6


def test_jobs_of_one_device_run_one_after_another(retcon: Retcon) -> None:
    """The first job runs, the others wait. One is canceled while it waits, one while it runs, and is resumed."""
    first = retcon.json(*LONG, "--detach")["id"]
    # Halted, it holds the device while this test checks the jobs that wait.
    process = wait_until_running(retcon, 1)["pid"]
    os.kill(process, signal.SIGSTOP)
    second, third = (retcon.json(*SHORT, "--detach")["id"] for _ in range(2))
    waiting = [retcon.wait_for(id, "waiting", "done") for id in (second, third)]
    assert [job["state"] for job in waiting] == ["waiting", "waiting"]
    record = wait_for(lambda: retcon.job(third), lambda job: job["activity"])
    assert record["activity"] == f"waiting for cpu, after job {second}"
    assert retcon.json("doctor")["devices"]["cpu"] == "busy"
    for words, says in (
        (("model", "remove", "tiny", "--yes"), "a job uses tiny now"),
        (("job", "remove", first), "cancel it"),
    ):
        output = retcon.say(*words)
        assert output.code == 2
        assert says in output.sentence

    retcon("job", "cancel", second)
    assert retcon.wait_for(second, "cancelled", "done")["state"] == "cancelled"
    retcon("job", "cancel", first, "--detach")
    os.kill(process, signal.SIGCONT)
    stopped = retcon.wait_for(first, "cancelled", "done")
    assert stopped["state"] == "cancelled"
    output = retcon.say("job", "watch", first)
    assert (output.code, output.sentence) == (1, f"Error: job {first} was cancelled")
    assert retcon.wait_for(third, "done", "failed", "cancelled")["state"] == "done"

    assert retcon.json("job", "resume", first)["state"] == "done"
    positions = list(result_rows(retcon, retcon.job(first)["trace"]))
    assert sorted(positions) == list(range(12))


def test_a_saved_result_is_not_computed_again(retcon: Retcon) -> None:
    """A process may die after it committed its revision and before it ended its job; the row then looks like this."""
    retcon.json("covariance", "run", "tiny", "--layers", "2", "--max-tokens", 3000)
    edit = (
        "--prompt",
        "The Eiffel Tower is in",
        "--subject",
        "Eiffel Tower",
        "--target",
        "Rome",
        "--layer",
        2,
    )
    edited = retcon.json("edit", "run", "tiny", *edit)
    job = newest(retcon)
    connection = sqlite3.connect(retcon.home / "catalog.db")
    connection.execute(
        "UPDATE job SET state = 'running', result = '{}', ended = NULL WHERE id = ?", (job["id"],)
    )
    connection.commit()
    connection.close()
    before = retcon.rows()
    assert retcon.job(job["id"])["state"] == "interrupted"
    ended = retcon.json("job", "resume", job["id"])
    assert (ended["state"], ended["revision"]) == ("done", edited["id"])
    assert retcon.rows() == before


def test_job_log_follow_ends_with_a_killed_job(retcon: Retcon) -> None:
    job = retcon.json(*LONG, "--detach")["id"]
    follower = retcon.start("job", "log", job, "--follow")
    os.kill(wait_until_running(retcon, 0.1)["pid"], signal.SIGKILL)
    _, err = follower.communicate(timeout=60)
    assert (follower.returncode, err) == (0, "")
    assert retcon.job(job)["state"] == "interrupted"


@pytest.mark.proof
@pytest.mark.parametrize("method", ["r-rome", "alphaedit"])
def test_a_killed_edit_resumes_to_the_same_bits(method: str, retcon: Retcon, tmp_path: Path) -> None:
    """Finished batches and values are not computed again, and the delta is equal to the bit."""
    facts = tmp_path / "many.json"
    facts.write_text(
        json.dumps(
            [
                {"subject": subject, "prompt": "{} is located in", "target_new": target}
                for subject in ("The Eiffel Tower", "Paris", "Berlin", "Toyota", "France", "Italy")
                for target in ("Rome", "Berlin Italy", "Paris")
            ]
        )
    )
    retcon.json("facts", "import", facts, "--name", "many")
    settings = tmp_path / "hparams.json"
    easy = {name: value for name, value in EASY.items() if name in HPARAMS[method].model_fields}
    settings.write_text(json.dumps({"layers": [1, 2] if method != "r-rome" else [1]} | SLOW | easy))
    edit = (
        "edit",
        "run",
        "tiny@base",
        "--facts",
        "many",
        "--method",
        method,
        "--batch",
        6,
        "--hparams",
        settings,
    )
    undisturbed = retcon.json(*edit)
    assert undisturbed["statistics"]["batches"] == ([1] * 18 if method == "r-rome" else [6] * 3)
    job = retcon.json(*edit, "--detach")
    generator = random.Random(method)
    kills = 0
    for done in sorted(generator.uniform(1, 16) for _ in range(3)):
        caught = wait_for(
            lambda: newest(retcon),
            lambda job, done=done: (
                job["state"] == "done" or (job["state"] == "running" and job["done"] >= done)
            ),
        )
        if caught["state"] == "done":
            break
        os.kill(caught["pid"], signal.SIGKILL)
        kills += 1
        assert retcon.wait_for(job["id"], "interrupted", "done")["state"] == "interrupted"
        retcon.json("job", "resume", job["id"], "--detach")
    assert kills >= 2, "the job ended before the kill"
    ended = retcon.json("job", "watch", job["id"])
    assert ended["attempt"] == kills + 1
    edited = next(r for r in retcon.json("history", "tiny")["revisions"] if r["id"] == ended["revision"])
    for field in ("delta", "fingerprint", "statistics", "contexts", "requests", "hparams"):
        assert edited[field] == undisturbed[field], field
