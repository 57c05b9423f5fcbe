"""Jobs on a Ray with real nodes give the bits of one process, even if workers or nodes die."""

import importlib.util
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from retcon.tests.helpers.command_line import Retcon, RetconProcess, wait_for
from retcon.tests.helpers.ray_nodes import Nodes, ray_nodes

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -e '.[ray]'"),
]

# Long enough on a small machine to kill something during the job.
FACTS = ("trace", "run", "tiny", "--facts", "known", "--samples", 400)


@pytest.fixture
def retcon(template_home: Path, tmp_path: Path) -> RetconProcess:
    """The installed command line, whose jobs are processes."""
    return RetconProcess(template_home).copy(tmp_path / "home")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes(3) as running:
        yield running


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Many blocks of documents."""
    chance = random.Random(3)
    lines = [" ".join(f"w{chance.randrange(50)}" for _ in range(20)) for _ in range(18000)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines))
    return path


def wait_for_progress(retcon: Retcon, id: int, done: float) -> dict[str, Any]:
    """The job once its workers have finished `done` units."""
    found: dict[str, Any] = wait_for(
        lambda: Retcon(retcon.home).job(id),
        lambda job: (
            job["state"] not in ("queued", "waiting", "running")
            or (job["activity"].startswith(("tracing", "reading")) and job["done"] >= done)
        ),
    )
    assert found["state"] == "running", found
    return found


def results(retcon: Retcon, trace: int) -> list[list[dict[str, Any]]]:
    """The rows of a trace without their ids: its facts and its average effects, both sorted."""
    tables = ("trace_result", "average_effect")
    return [sorted(retcon.children(table, "trace_id", trace), key=str) for table in tables]


def files(retcon: Retcon, ids: list[int]) -> list[str]:
    """The hashes of covariances' files: sums, probes and curve."""
    rows = {row["covariance"]: row["artifact"] for row in retcon.json("covariance", "list")["covariances"]}
    return [rows[id] for id in ids]


def test_lost_worker_and_node_give_same_bits(retcon: Retcon, nodes: Nodes, texts: Path) -> None:
    """All workers are suspended with a shard each, so that the kill always happens during the job."""
    collect = ("covariance", "run", "tiny", "--layers", "0,2", "--texts", texts, "--max-tokens", 10**6)
    here = retcon.json(*collect)["covariances"]
    id = retcon.json(*collect, "--on", nodes.on, "--threads", 1, "--detach")["id"]

    def read_job() -> dict[str, Any]:
        found = Retcon(retcon.home).job(id)
        assert found["state"] in ("queued", "waiting", "running"), found
        return found

    # The first worker with a finished block is suspended. The others then stop at the window.
    first = next(
        name
        for name, node in wait_for(read_job, lambda job: any(n["done"] for n in job["nodes"].values()))[
            "nodes"
        ].items()
        if node["done"]
    )
    nodes.worker(first).suspend()
    everywhere = wait_for(read_job, lambda job: sum(node["workers"] for node in job["nodes"].values()) == 3)
    assert everywhere["memory"] and everywhere["device"] == nodes.on
    suspended = [nodes.worker(name) for name in nodes.names if name != first]
    for worker in suspended:
        worker.suspend()
    nodes.worker(first).kill()
    wait_for(read_job, lambda job: "lost a worker" in job["detail"])
    removed = next(name for name in reversed(nodes.names) if name != first)
    nodes.remove(removed)
    wait_for(read_job, lambda job: job["nodes"][removed]["state"] == "gone")
    for worker in suspended:
        if worker.is_running():
            worker.resume()
    ended = retcon.wait_for(id, "done", "failed", "interrupted")
    assert ended["state"] == "done", ended
    assert sorted(node["state"] for node in ended["nodes"].values()) == ["gone", "up", "up"]
    assert files(retcon, ended["covariances"]) == files(retcon, [row["covariance"] for row in here])
    log = retcon("job", "log", id)
    assert log.count(", repeating ") == 2 and "is gone" in log
    shown = retcon("job", "show", id)
    assert "gone, 0 workers" in shown and "tokens/s" in shown


def test_killed_job_on_ray_resumes_to_same_bits(retcon: Retcon, nodes: Nodes) -> None:
    undisturbed = retcon.json(*FACTS)
    id = retcon.json(*FACTS, "--on", nodes.on, "--threads", 1, "--detach")["id"]
    os.kill(wait_for_progress(retcon, id, 2)["pid"], signal.SIGKILL)
    dead = retcon.wait_for(id, "interrupted", "done")
    assert dead["state"] == "interrupted"
    saved = {row["position"] for row in retcon.children("trace_result", "trace_id", dead["trace"])}
    assert 2 <= len(saved) < 12
    retcon.json("job", "resume", id, "--detach")
    wait_for_progress(retcon, id, len(saved))
    retcon("job", "cancel", id)
    assert retcon.wait_for(id, "cancelled", "done")["state"] == "cancelled"
    ended = retcon.json("job", "resume", id)
    assert ended["state"] == "done"
    assert results(retcon, ended["trace"]) == results(retcon, undisturbed["trace"])


def test_own_ray_listens_locally_and_ends_with_the_job(retcon: Retcon) -> None:
    """A job's own Ray listens only on the loopback, and its processes and files end with the job."""
    facts = ("trace", "run", "tiny", "--facts", "mixed", "--samples", 400)
    here = retcon.json(*facts)
    job = retcon.json(*facts, "--on", "ray", "--threads", 1, "--detach")
    running = wait_for(lambda: Retcon(retcon.home).job(job["id"]), lambda job: job["nodes"] or job["error"])
    processes = [psutil.Process(running["pid"]), *psutil.Process(running["pid"]).children(recursive=True)]
    listening = [
        one.laddr.ip
        for process in processes
        for one in process.net_connections("tcp")
        if one.status == "LISTEN"
    ]
    assert listening and set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    ended = retcon.wait_for(job["id"], "done", "failed")
    assert ended["state"] == "done", ended
    assert results(retcon, ended["trace"]) == results(retcon, here["trace"])
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert not list((retcon.home / "ray").glob("*"))


def test_wrong_ray_options_are_refused_before_start(retcon: Retcon) -> None:
    for words, said in (
        (("--on", "dask"), "--on takes ray, ray:HOST:PORT or ray:auto"),
        (("--on", "ray://127.0.0.1:10001"), "is not a valid Ray address"),
        (("--on", "ray:127.0.0.1"), "is not a valid Ray address"),
        (("--on", "ray", "--device", "cpu"), "--on excludes --device"),
        (("--on", "ray", "--devices", "cpu,cpu"), "--on excludes --device"),
        (("--on", "ray", "--estimate"), "omit --on"),
        (("--threads", 2), "it needs --on"),
    ):
        assert said in retcon.refused(*FACTS, *words), words
    assert not retcon.json("job", "list")["jobs"][1:], "only the model's job exists"
