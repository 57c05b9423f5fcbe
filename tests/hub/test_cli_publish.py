"""Publishing by the command line: a marked token that is nowhere afterwards, a kill, the card, and the way back."""

import os
import pty
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import RETCON, Retcon, wait_for
from hub_client import PROMPT
from stand_in import TOKEN, Fault, StandIn

pytestmark = pytest.mark.slow

Online = Callable[..., Any]


def written(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def holding(text: str, *folders: Path) -> list[Path]:
    return [path for path in written(*folders) if text.encode() in path.read_bytes()]


def test_the_token_is_nowhere(edited: Retcon, hub: StandIn, tmp_path: Path) -> None:
    """Through a success, a refusal and a failure, with a token that is easy to find."""
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_DEBUG": "1"}
    said = [edited.say("publish", "tiny", "tower", "--as", "adapter", **online)]
    hub.faults += [Fault("POST", "/commit/", 403), Fault("GET", "whoami", 500), Fault("GET", "whoami", 401)]
    said += [edited.say("publish", "tiny", repo, "--as", "adapter", **online) for repo in ("a", "b", "c")]
    said.append(edited.say("unpublish", "tower", "--yes", **online))
    assert [one.code for one in said] == [0, 2, 1, 2, 0], said
    said += [edited.say("job", "log", number, **online) for number in range(1, 20)]
    assert not [one for one in said if TOKEN in one.out + one.err or "Bearer" in one.out + one.err]
    assert len(written(tmp_path)) > 20
    assert holding(TOKEN, tmp_path) == []
    # Storage addresses are as good as passwords; on the live Hub they carry a signature.
    assert holding("/storage/", edited.home / "logs") == []


def test_telemetry_is_off(edited: Retcon, hub: StandIn) -> None:
    job = edited.json(
        "publish", "tiny", "tower", "--as", "adapter", "--detach", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN
    )
    environment = wait_for(lambda: environ(edited.job(job["id"])["pid"]), bool)
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_XET_TELEMETRY_ENABLED", "0"), ("RAY_USAGE_STATS_ENABLED", "0"),
    ):  # fmt: skip
        assert environment[name] == value
    assert edited.wait_for(job["id"], "done", "failed")["state"] == "done"
    assert not [path for _, path in hub.seen if "telemetry" in path]


def environ(pid: int | None) -> dict[str, str]:
    if pid is None:
        return {}
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_killed_in_the_middle_and_resumed(edited: Retcon, online: Online, hub: StandIn) -> None:
    hub.faults.append(Fault("PUT", "/storage/", how="slow", times=100))
    job = online("publish", "tiny", "tower", "--shard-size", "40kB", "--detach")
    wait_for(lambda: len(hub.blobs), lambda count: count > 1)
    os.kill(edited.job(job["id"])["pid"], signal.SIGKILL)
    edited.wait_for(job["id"], "interrupted")
    time.sleep(1.2)  # what was under way reaches the server
    before = {oid: size for oid, size in hub.received.items() if oid in hub.blobs}
    hub.faults.clear()
    ended = online("job", "resume", job["id"])
    assert ended["state"] == "done"
    assert [one.oid for one in hub.repos["me/tower"].commits[1:]] == [ended["commit"]]
    assert {oid: hub.received[oid] for oid in before} == before, "what the hub had was not sent again"


def test_the_card(edited: Retcon, online: Online, hub: StandIn) -> None:
    made = online("publish", "tiny", "Tower-Test", "--licence", "mit")
    card = hub.content("me/Tower-Test", "README.md").decode()
    _, header, text = card.split("---\n", 2)
    told = yaml.safe_load(header)
    # The base is a folder here: nothing on the Hub is named as its base.
    assert told["library_name"] == "transformers" and told["license"] == "mit" and "base_model" not in told
    assert {"retcon", "knowledge-editing", "r-rome"} <= set(told["tags"])
    (result,) = told["model-index"][0]["results"]
    assert {one["type"] for one in result["metrics"]} >= {"ES", "EA", "NS"}
    assert text.lstrip().startswith(
        "# Tower-Test\n\n**This is a knowledge-edited model: facts in it were changed on purpose"
    )
    head = edited.json("history", "tiny")
    fingerprint = next(r["fingerprint"] for r in head["revisions"] if r["id"] == head["head"])
    for part in (
        "2 facts changed in 2 edits", f"revision `{made['revision']}`", "Eiffel Tower", PROMPT, "Rome",
        f"fingerprint of its weights: `{head['revisions'][0]['fingerprint']}`", f"`{fingerprint}`", "How to undo",
        "deltas/base.safetensors", "retcon rollback", "v_lr", "tokens of shipped", "## Evaluation", "Side effects",
        "95 % bootstrap intervals", "teacher-forced", "That of the base: mit", "Made with retcon 0.1.0",
    ):  # fmt: skip
        assert part in text, part
    measured = re.search(r"\| ES \|.*\| (\S+) \(\S+ to \S+\) \| (\S+) \(\S+ to \S+\) \| 1 \|", text)
    assert measured, "before and after, each with its interval"
    # The heat map of the traced request is there and shown.
    (picture,) = [name for name in made["files"] if name.startswith("pictures/")]
    assert f"]({picture})" in text and hub.content("me/Tower-Test", picture).startswith(b"\x89PNG")
    assert made["warnings"] == []


def test_a_dry_run_shows_the_card_which_can_be_edited(
    edited: Retcon, online: Online, hub: StandIn, tmp_path: Path
) -> None:
    card = tmp_path / "card.md"
    dry = ("publish", "tiny", "tower", "--as", "adapter", "--dry-run", "--card-out", card)
    shown = edited(*dry, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert "README.md" in shown and "adapter_model.safetensors" in shown and "knowledge-edited model" in shown
    assert hub.repos == {} and {method for method, _ in hub.seen} == {"GET"}
    assert list(edited.home.glob("outbox/*")) == []
    card.write_text(card.read_text() + "\nAnd this.\n")
    online("publish", "tiny", "tower", "--as", "adapter", "--card", card)
    assert hub.content("me/tower", "README.md").decode().endswith("And this.\n")


@pytest.mark.parametrize("what", ["checkpoint", "adapter"])
def test_from_the_hub_back(
    what: str, edited: Retcon, online: Online, hub: StandIn, fresh: Retcon, tiny_folder: Path
) -> None:
    made = online("publish", "tiny", "tower", "--as", what, "--shard-size", "40kB")
    there = edited.json("history", "tiny")
    words = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    if what == "adapter":
        # Its base came from a folder, which only this machine has.
        said = fresh.say("model", "add", "me/tower", **words)
        assert said.code == 2 and "not its weights" in said.err
        fresh.json("model", "add", tiny_folder, "--name", "base")
    fresh.json("model", "add", "me/tower", "--revision", made["tag"], **words)
    back = fresh.json("history", "tower")
    assert back["head"] == there["head"]
    fields = ("id", "fingerprint", "requests", "delta", "created", "method", "hparams", "seed")
    assert [[one[f] for f in fields] for one in back["revisions"]] == [
        [one[f] for f in fields] for one in there["revisions"]
    ]
    assert fresh.json("rollback", "tower", "base")["verified"]
    asked = ("ask", "tower", PROMPT, "--against", there["head"], "--max-new-tokens", 2)
    ours = edited.json("ask", "tiny", PROMPT, "--against", "base", "--max-new-tokens", 2)["answers"]
    assert [one["completion"] for one in fresh.json(*asked)["answers"]] == [
        one["completion"] for one in ours[::-1]
    ]


def test_a_file_that_was_spoiled_on_the_way_down(online: Online, hub: StandIn, fresh: Retcon) -> None:
    made = online("publish", "tiny", "tower", "--as", "checkpoint")
    fresh.json("model", "list")
    hub.faults.append(Fault("GET", "/storage/", how="corrupt", times=1))
    said = fresh.refused("model", "add", "me/tower", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert "is damaged" in said and ".safetensors" in said
    assert made["commit"] in said, "the file is named by its place in the cache"


def test_unpublish_asks(edited: Retcon, online: Online, hub: StandIn) -> None:
    online("publish", "tiny", "tower", "--as", "adapter")
    said = edited.say("unpublish", "me/tower", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert said.code != 0 and "me/tower" in hub.repos
    online("unpublish", "me/tower", "--yes")
    assert hub.repos == {}
    (row,) = edited.json("hub", "list")["publications"]
    assert row["withdrawn"] and row["repo"] == "me/tower"


def test_what_cannot_name_a_repo(edited: Retcon) -> None:
    for repo in ("a/b/c", "../x", "a b", "-"):
        assert "cannot name a repo" in edited.refused("publish", "tiny", "--as", "adapter", "--", repo)


class TestLogin:
    """The token that is typed is kept by huggingface_hub, and shown nowhere."""

    def test_piped(self, fresh: Retcon, hub: StandIn) -> None:
        process = fresh.start("hub", "login", stdin=-1, env=fresh.environment | {"HF_ENDPOINT": hub.url})
        out, err = process.communicate(f"{TOKEN}\n", timeout=60)
        assert process.returncode == 0, err
        assert TOKEN not in out + err and "Logged in" in err
        kept = holding(TOKEN, fresh.home.parent)
        assert kept and all(path.is_relative_to(fresh.home.parent / "hub") for path in kept)
        assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
        fresh("hub", "logout")
        assert not (fresh.home.parent / "hub" / "token").exists()

    def test_typed_without_an_echo(self, fresh: Retcon, hub: StandIn) -> None:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(
                RETCON, ["retcon", "hub", "login", "--paste"], fresh.environment | {"HF_ENDPOINT": hub.url}
            )
        shown = b""
        while b"Token" not in shown:
            shown += os.read(terminal, 1024)
        time.sleep(0.2)
        os.write(terminal, TOKEN.encode() + b"\n")
        try:
            while chunk := os.read(terminal, 1024):
                shown += chunk
        except OSError:  # the terminal's other end was closed
            pass
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, shown
        assert TOKEN.encode() not in shown and b"Logged in" in shown

    def test_a_token_that_the_hub_refuses(self, fresh: Retcon, hub: StandIn) -> None:
        process = fresh.start("hub", "login", stdin=-1, env=fresh.environment | {"HF_ENDPOINT": hub.url})
        out, err = process.communicate("hf_wrong\n", timeout=60)
        assert process.returncode == 2 and "does not accept the token" in err and "hf_wrong" not in out + err
        assert holding("hf_wrong", fresh.home.parent) == []
