"""`retcon catalog`: check, backup, restore, gc, export, import."""

import json
import os
import pty
import shutil
import signal
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import Retcon, wait_for

pytestmark = pytest.mark.slow

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"
# Settings with which a tiny random model can be edited, and small sums.
EASY = {"layers": [1], "v_num_grad_steps": 4, "v_lr": 0.5, "contexts": 1}


@pytest.fixture(scope="module")
def worked(template_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a trace, two edits and an evaluation, created with a permissive umask."""
    folder = tmp_path_factory.mktemp("worked")
    retcon = Retcon(template_home).copy(folder / "home")
    settings = folder / "easy.json"
    settings.write_text(json.dumps(EASY))
    before = os.umask(0)
    try:
        retcon.json("trace", "run", "tiny", "--facts", "mixed", "--samples", 2, "--kinds", "mlp")
        for target in ("Rome", "Berlin"):
            retcon.json("edit", "run", "tiny", "--prompt", PROMPT, "--subject", SUBJECT, "--target", target, "--method",
                        "rome", "--hparams", settings)  # fmt: skip
        retcon.json("eval", "run", "tiny", "--suite", "quick")
        time.sleep(1.1)  # gc keeps files of the last second
        retcon.json("catalog", "gc", "--grace", 0, "--delete")  # checkpoints of the jobs
    finally:
        os.umask(before)
    return retcon.home


@pytest.fixture
def here(worked: Path, tmp_path: Path) -> Retcon:
    """The command line on a copy of that home."""
    return Retcon(worked).copy(tmp_path / "home")


@pytest.fixture
def elsewhere(template_home: Path, tmp_path: Path) -> Retcon:
    """Another home with the same model under another name."""
    retcon = Retcon(tmp_path / "elsewhere" / "home")
    retcon.json(
        "model", "add", Path(Retcon(template_home).json("model", "show", "tiny")["path"]), "--name", "mine"
    )
    return retcon


def deltas(retcon: Retcon) -> list[str]:
    """The digests of the edits' deltas, oldest first."""
    return [row["delta"] for row in history(retcon)["revisions"] if row["delta"]]


def history(retcon: Retcon, model: str = "tiny") -> dict[str, Any]:
    found: dict[str, Any] = Retcon(retcon.home).json("history", model)
    return found


def artifact(retcon: Retcon, digest: str) -> Path:
    return retcon.home / "artifacts" / digest[:2] / digest


def files(retcon: Retcon) -> list[Path]:
    """All files except those of the database, which change."""
    return sorted(path for path in retcon.home.rglob("*") if path.is_file() and "catalog.db" not in path.name)


def hurt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_files_of_a_home_are_private(worked: Path) -> None:
    for path in (worked, *worked.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_check_finds_and_repairs_a_corrupt_artifact(here: Retcon, tmp_path: Path) -> None:
    assert here("catalog", "check").startswith("No corruption in ")
    found = here.json("catalog", "check")
    assert (found["sound"], found["corrupt"], found["database"]) == (True, [], [])
    assert found["bytes"] == sum(
        artifact(here, one.name).stat().st_size for one in here.home.glob("artifacts/??/*")
    )
    backup = tmp_path / "backup"
    here("catalog", "backup", backup)
    (first, second), (one, other) = history(here)["revisions"][1:], deltas(here)
    hurt(artifact(here, one))
    said = here.say("catalog", "check", "--json")
    assert said.code == 1
    (damage,) = json.loads(said.out)["corrupt"]
    assert damage["artifact"] == one and damage["referenced_by"] == [f"revision {first['id']} of tiny"]
    assert any(second["id"] in text and "builds on" in text for text in damage["affects"])
    assert any("evaluation 1" in text for text in damage["affects"])
    assert Path(damage["quarantined"]).parent == here.home / "quarantine"
    # No job uses a corrupt artifact, and the error names it.
    assert one in here.refused("rollback", "tiny", second["id"], code=1)
    said = here.say("catalog", "check")
    assert said.code == 1 and "is missing" in said.out and "--repair-from" in said.err
    assert "It was replaced by an intact copy" in here("catalog", "check", "--repair-from", backup)
    assert here.json("rollback", "tiny", second["id"])["verified"]
    assert here.json("catalog", "check")["sound"] and artifact(here, other).exists()
    assert "is not a backup" in here.refused("catalog", "check", "--repair-from", tmp_path / "nowhere")


def test_check_shows_progress_on_a_terminal(here: Retcon) -> None:
    controller, terminal = pty.openpty()
    # Hashing half a gigabyte takes longer than the first progress line.
    from retcon.store.catalog.artifacts import ArtifactStore

    ArtifactStore(here.home / "artifacts").put_writer(lambda path: os.truncate(path, 500_000_000))
    running = here.start("catalog", "check", stderr=terminal)
    os.close(terminal)
    drawn = b""
    while b"left" not in drawn:
        drawn += os.read(controller, 1000)
    assert b"hashing artifacts:" in drawn and b"500.0 MB" in drawn
    assert running.communicate()[0].startswith("No corruption")
    os.close(controller)


def test_check_reports_a_corrupt_database(here: Retcon, tmp_path: Path) -> None:
    here("catalog", "backup", tmp_path / "backup")
    connection = sqlite3.connect(here.home / "catalog.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    with (here.home / "catalog.db").open("r+b") as file:
        file.seek(size * 5)
        file.write(b"\xff" * size * 20)
    said = here.say("catalog", "check")
    assert said.code == 1 and "corrupt" in said.out + said.err and "Traceback" not in said.err
    here.home.rename(tmp_path / "broken")
    here("catalog", "restore", tmp_path / "backup")
    assert here.json("catalog", "check")["sound"]


def test_restore_gives_back_the_catalog(here: Retcon, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    made = here.json("catalog", "backup", backup)
    assert (made["artifacts"], made["corrupt"]) == (len(list(here.home.glob("artifacts/??/*"))), [])
    before, rows = history(here), here.rows()
    assert "has a catalog" in here.refused("catalog", "restore", backup)
    shutil.rmtree(here.home)
    said = here.say("catalog", "restore", backup)
    assert said.code == 0 and "all verified" in said.err
    assert history(here) == before and here.rows() == rows
    assert here.json("rollback", "tiny", "head")["verified"]
    assert here.json("catalog", "check")["sound"]


def test_backup_during_a_job_can_be_resumed(here: Retcon, tmp_path: Path) -> None:
    """The job continues here. In the copy it is interrupted and can be resumed."""
    here = here.process
    run = ("trace", "run", "tiny", "--facts", "known", "--samples", 200)
    id = int(here(*run, "--detach"))
    here.wait_for(id, "running")
    here("catalog", "backup", tmp_path / "backup")
    there = Retcon(tmp_path / "there" / "home")
    said = there.json("catalog", "restore", tmp_path / "backup")
    assert said["interrupted"] == [id]
    assert here.json("job", "watch", id)["state"] == "done"
    assert there.json("job", "resume", id)["state"] == "done"
    scores = [
        [result["kinds"] for result in one.json("trace", "show", one.job(id)["trace"])["results"]]
        for one in (here, there)
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 12


def test_backup_of_only_the_database(here: Retcon, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    here("catalog", "backup", target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "exists already" in here.refused("catalog", "backup", target)
    rows = here.rows()
    for path in here.home.glob("catalog.db*"):
        path.unlink()
    here("catalog", "restore", target)
    assert here.rows() == rows
    assert here.json("catalog", "check")["sound"]


@pytest.mark.parametrize("place", ["a folder with something else", "a file", "in the home"])
def test_backup_refuses_unsuitable_targets(here: Retcon, tmp_path: Path, place: str) -> None:
    target = here.home / "copy" if place == "in the home" else tmp_path / "there"
    if place == "a file":
        target.write_text("x")
    elif place != "in the home":
        target.mkdir()
        (target / "mine").write_text("x")
    assert str(target) in here.refused("catalog", "backup", target)
    assert "not a backup" in Retcon(tmp_path / "new").refused("catalog", "restore", tmp_path / "nowhere")


def test_gc_lists_and_deletes_unreferenced_files(here: Retcon) -> None:
    from retcon.store.catalog.artifacts import ArtifactStore

    store = ArtifactStore(here.home / "artifacts")
    loose = store.put_bytes(b"of a job that was killed before its row").sha256
    store.close()
    os.utime(artifact(here, loose), (1, 1))
    (here.home / "logs" / "job-99.log").write_text("a removed job's")
    before = files(here)
    listed = here("catalog", "gc")
    assert loose in listed and "job-99.log" not in listed
    assert files(here) == before
    found = here.json("catalog", "gc", "--grace", 0)
    assert {(one["kind"], Path(one["path"]).name) for one in found["files"]} == {
        ("artifact", loose), ("log", "job-99.log"),
    }  # fmt: skip
    assert found["deleted"] is False
    found = here.json("catalog", "gc", "--grace", 0, "--delete")
    assert found["deleted"] is True and len(found["files"]) == 2
    assert not artifact(here, loose).exists()
    assert here("catalog", "gc", "--grace", 0) == "No unreferenced files.\n"
    assert here.json("catalog", "check")["sound"]
    assert here.json("rollback", "tiny", "head")["verified"]
    assert here.say("catalog", "gc", "--grace", "-1").code == 2


@pytest.mark.proof
def test_gc_keeps_files_of_running_and_killed_jobs(here: Retcon, tmp_path: Path) -> None:
    """An edit stores its batches as artifacts while gc runs without a grace period."""
    here = here.process
    known = here.json("facts", "show", "known")["facts"]
    facts = tmp_path / "write.json"
    facts.write_text(json.dumps([fact | {"target_new": "Rome"} for fact in known[:6]]))
    here("facts", "import", facts, "--name", "write")
    settings = tmp_path / "easy.json"
    settings.write_text(json.dumps(EASY | {"v_num_grad_steps": 400, "mom2_update_weight": 1}))
    words = (
        "edit",
        "run",
        "tiny",
        "--facts",
        "write",
        "--method",
        "memit",
        "--batch",
        1,
        "--hparams",
        settings,
    )
    id = int(here(*words, "--detach"))

    def kept() -> int:
        connection = sqlite3.connect(here.home / "catalog.db")
        try:
            (checkpoint,) = connection.execute("SELECT checkpoint FROM job WHERE id = ?", (id,)).fetchone()
        finally:
            connection.close()
        return len(json.loads(checkpoint).get("batches", []))

    while kept() < 2:
        assert here.json("catalog", "gc", "--grace", 0, "--delete")["files"] == []
        assert here.job(id)["state"] in ("queued", "waiting", "running"), here.job(id)
    os.kill(here.job(id)["pid"], signal.SIGKILL)
    here.wait_for(id, "interrupted")
    time.sleep(1.1)
    here.json("catalog", "gc", "--grace", 0, "--delete")
    assert here.json("catalog", "check")["sound"]
    assert here.json("job", "resume", id)["state"] == "done"
    # After the job its batches are unreferenced. Its process holds a lease until it exits.
    wait_for(
        lambda: [one["kind"] for one in here.json("catalog", "gc", "--grace", 0)["files"]],
        lambda kinds: kinds.count("artifact") >= 5,
    )
    here.json("catalog", "gc", "--grace", 0, "--delete")
    assert here.json("catalog", "check")["sound"]
    assert here.json("rollback", "tiny", "head")["verified"]


def test_history_is_exported_and_imported(here: Retcon, elsewhere: Retcon, tmp_path: Path) -> None:
    bundle = tmp_path / "tiny.retcon"
    made = here.json("catalog", "export", "tiny", bundle)
    assert made["rows"]["revision"] == 3 and made["bytes"] == bundle.stat().st_size
    assert "exists already" in here.refused("catalog", "export", "tiny", bundle)
    taken = elsewhere.json("catalog", "import", bundle)
    theirs, ours = history(elsewhere, "mine"), history(here)
    assert taken["model"] == "mine" and taken["verified"] and taken["head_moved"]
    assert theirs["head"] == ours["head"] == taken["source_head"]
    fields = ("id", "fingerprint", "delta", "requests", "method", "hparams", "seed", "message")
    for mine, yours in zip(theirs["revisions"][1:], ours["revisions"][1:], strict=True):
        assert {name: mine[name] for name in fields} == {name: yours[name] for name in fields}
    assert theirs["revisions"][0]["fingerprint"] == ours["revisions"][0]["fingerprint"]
    # The weights of each revision are bit for bit equal there.
    for one in theirs["revisions"]:
        assert elsewhere.json("rollback", "mine", one["id"])["verified"]
    assert elsewhere.json("trace", "show", 1)["results"] == here.json("trace", "show", 1)["results"]
    assert elsewhere.json("eval", "show", 1)["metrics"] == here.json("eval", "show", 1)["metrics"]
    said = elsewhere.say("catalog", "import", bundle, "--no-verify")
    assert said.code == 0 and "Added to mine: nothing." in said.err
    assert elsewhere.json("catalog", "check")["sound"]


def test_import_refuses_unsuitable_bundles(
    here: Retcon, elsewhere: Retcon, fresh: Retcon, tmp_path: Path
) -> None:
    bundle = tmp_path / "tiny.retcon"
    here("catalog", "export", "tiny", bundle, "--no-covariances")
    fresh("model", "list")
    assert "retcon model add" in fresh.refused("catalog", "import", bundle)
    assert "no model 'other'" in elsewhere.refused("catalog", "import", bundle, "--into", "other")
    assert "is not a file" in elsewhere.refused("catalog", "import", tmp_path / "nowhere")
    data = bundle.read_bytes()
    bundle.write_bytes(data[: len(data) // 2])
    assert "not a complete bundle" in elsewhere.refused("catalog", "import", bundle)
    bundle.write_bytes(data.replace(b"artifacts/", b"../../../x/"[:10]))
    assert "do not trust it" in elsewhere.refused("catalog", "import", bundle)
    assert not list(tmp_path.parent.glob("x*"))


def test_killed_import_leaves_all_rows_or_none(here: Retcon, elsewhere: Retcon, tmp_path: Path) -> None:
    """After a kill there are all rows or none, and the next import completes it."""
    bundle = tmp_path / "tiny.retcon"
    here("catalog", "export", "tiny", bundle)
    seen = set()
    for number in range(6):
        running = elsewhere.start("catalog", "import", bundle, "--no-verify")
        time.sleep(0.6 + 0.2 * number)
        running.kill()
        running.communicate()
        seen.add(len(history(elsewhere, "mine")["revisions"]))
        assert elsewhere.json("catalog", "check")["sound"]
    assert seen <= {1, 3}
    elsewhere.json("catalog", "import", bundle)
    assert len(history(elsewhere, "mine")["revisions"]) == 3


def test_home_of_another_user_is_refused(here: Retcon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(here.home, 65534, 65534)
    said = here.say("catalog", "check")
    assert said.code == 2 and "belongs to another user (uid 65534" in said.sentence


def test_jobs_of_two_homes_share_device_locks(here: Retcon, tmp_path: Path) -> None:
    """Jobs of two homes on one machine: the second waits for the first."""
    here = here.process
    locks = tmp_path / "locks"
    locks.mkdir(mode=0o1777)
    other = here.copy(tmp_path / "other" / "home")
    words = ("trace", "run", "tiny", "--facts", "known", "--samples", 300, "--detach")
    first = int(here(*words, RETCON_LOCKS=str(locks)))
    here.wait_for(first, "running")
    second = int(other(*words, RETCON_LOCKS=str(locks)))
    waiting = wait_for(
        lambda: Retcon(other.home).job(second), lambda job: "in use by another job" in job["activity"]
    )
    assert waiting["state"] == "waiting" and here.job(first)["state"] == "running"
    here("job", "cancel", first)
    other.wait_for(second, "running")
    other("job", "cancel", second)
    assert here.job(first)["state"] == "cancelled"
