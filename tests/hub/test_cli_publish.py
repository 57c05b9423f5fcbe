"""Publish with the command line: the token is not stored, a killed job resumes, the card, and the way back."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from retcon.tests.helpers.command_line import RETCON, Retcon, wait_for
from retcon.tests.helpers.hub_client import PROMPT
from retcon.tests.helpers.hub_stand_in import StandIn
from retcon.tests.helpers.hub_state import TOKEN, Entry, Fault, Repo

pytestmark = pytest.mark.proof

Online = Callable[..., Any]
# The options with which the files in the outbox of the ready home were written.
SMALL = ("--shard-size", "40kB")


def written(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def holding(text: str, *folders: Path) -> list[Path]:
    return [path for path in written(*folders) if text.encode() in path.read_bytes()]


def test_token_is_not_stored_or_printed(ready: Retcon, hub: StandIn, tmp_path: Path) -> None:
    """After a success, refusals and a failure, with a token that a search finds."""
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    words = ("publish", "tiny", "tower", "--as", "adapter", *SMALL)
    output = []
    for fault in (Fault("POST", "/commit/", 403), Fault("GET", "whoami", 500), Fault("GET", "whoami", 401)):
        hub.faults = [fault]
        output.append(ready.say(*words, **online))
    # Storage URLs of the live Hub are signed, so they work like passwords.
    assert holding("/storage/", ready.home / "logs") == []
    # At this log level the client logs every request, without the token.
    output += [ready.say(*words, HF_DEBUG="1", **online), ready.say("unpublish", "tower", "--yes", **online)]
    assert [one.code for one in output] == [2, 1, 2, 0, 0], output
    jobs = [one["id"] for one in ready.json("job", "list", "--all")["jobs"]]
    output += [ready.say("job", "log", number) for number in jobs]
    assert any("/commit/" in one.out for one in output), "the client's log is missing"
    assert not [one for one in output if TOKEN in one.out + one.err]
    assert len(written(tmp_path)) > 20
    assert holding(TOKEN, tmp_path) == []


def test_hub_requests_carry_no_telemetry(ready: Retcon, online: Online, hub: StandIn) -> None:
    job = online("publish", "tiny", "tower", "--as", "adapter", *SMALL, "--detach")
    environment = wait_for(lambda: environ(ready.job(job["id"])["pid"]), bool)
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_XET_TELEMETRY_ENABLED", "0"), ("RAY_USAGE_STATS_ENABLED", "0"),
    ):  # fmt: skip
        assert environment[name] == value
    assert ready.wait_for(job["id"], "done", "failed")["state"] == "done"
    assert not [path for _, path in hub.seen if "telemetry" in path]


def environ(pid: int | None) -> dict[str, str]:
    if pid is None:
        return {}
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_killed_upload_resumes(ready: Retcon, online: Online, hub: StandIn) -> None:
    hub.faults.append(Fault("PUT", "/storage/", how="slow", times=100))
    job = online("publish", "tiny", "tower", *SMALL, "--detach")
    wait_for(lambda: len(hub.blobs), lambda count: count > 1)
    os.kill(ready.job(job["id"])["pid"], signal.SIGKILL)
    ready.wait_for(job["id"], "interrupted")
    time.sleep(1.2)  # bytes in flight reach the server
    before = {oid: size for oid, size in hub.received.items() if oid in hub.blobs}
    hub.faults.clear()
    ended = online("job", "resume", job["id"])
    assert ended["state"] == "done"
    assert [one.oid for one in hub.repos["me/tower"].commits[1:]] == [ended["commit"]]
    assert {oid: hub.received[oid] for oid in before} == before, "what the hub had was not sent again"


def test_card_describes_the_edits(edited: Retcon, hub: StandIn) -> None:
    """With an empty outbox, so that the job writes the export itself."""
    words = ("publish", "tiny", "Tower-Test", "--license", "mit")
    published = edited.json(*words, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    card = hub.content("me/Tower-Test", "README.md").decode()
    _, header, text = card.split("---\n", 2)
    fields = yaml.safe_load(header)
    # The base is a folder, so the card names no base model on the Hub.
    assert (
        fields["library_name"] == "transformers" and fields["license"] == "mit" and "base_model" not in fields
    )
    assert {"retcon", "knowledge-editing", "r-rome"} <= set(fields["tags"])
    (result,) = fields["model-index"][0]["results"]
    assert {one["type"] for one in result["metrics"]} >= {"ES", "EA", "NS"}
    assert text.lstrip().startswith(
        "# Tower-Test\n\n**This is a knowledge-edited model: facts in it were changed on purpose"
    )
    head = edited.json("history", "tiny")
    fingerprint = next(r["fingerprint"] for r in head["revisions"] if r["id"] == head["head"])
    for part in (
        "2 facts changed in 2 edits", f"revision `{published['revision']}`", "Eiffel Tower", PROMPT, "Rome",
        f"fingerprint of its weights: `{head['revisions'][0]['fingerprint']}`", f"`{fingerprint}`", "How to undo",
        "deltas/base.safetensors", "retcon rollback", "v_lr", "tokens of shipped", "## Evaluation", "Side effects",
        "95 % bootstrap intervals", "teacher-forced", "The license of the base: mit", "Made with retcon 0.1.0",
    ):  # fmt: skip
        assert part in text, part
    measured = re.search(r"\| ES \|.*\| (\S+) \(\S+ to \S+\) \| (\S+) \(\S+ to \S+\) \| 1 \|", text)
    assert measured, "before and after, each with its interval"
    # The card shows the heat map of the traced request.
    (picture,) = [name for name in published["files"] if name.startswith("pictures/")]
    assert f"]({picture})" in text and hub.content("me/Tower-Test", picture).startswith(b"\x89PNG")
    assert published["warnings"] == []


def test_dry_run_prints_card_for_editing(ready: Retcon, online: Online, hub: StandIn, tmp_path: Path) -> None:
    card, waiting = tmp_path / "card.md", sorted(ready.home.glob("outbox/*"))
    adapter = ("publish", "tiny", "tower", "--as", "adapter", *SMALL)
    shown = ready(*adapter, "--dry-run", "--card-out", card, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert "README.md" in shown and "adapter_model.safetensors" in shown and "knowledge-edited model" in shown
    assert hub.repos == {} and {method for method, _ in hub.seen} == {"GET"}
    assert sorted(ready.home.glob("outbox/*")) == waiting, "what another job goes on with stays"
    card.write_text(card.read_text() + "\nAnd this.\n")
    online(*adapter, "--card", card)
    assert hub.content("me/tower", "README.md").decode().endswith("And this.\n")


@pytest.mark.parametrize("what", ["checkpoint", "adapter"])
def test_published_model_can_be_added_again(
    what: str, ready: Retcon, online: Online, hub: StandIn, fresh: Retcon, tiny_folder: Path
) -> None:
    published = online("publish", "tiny", "tower", "--as", what, *SMALL)
    original = ready.json("history", "tiny")
    words = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    if what == "adapter":
        # The base came from a folder of this machine.
        output = fresh.say("model", "add", "me/tower", **words)
        assert output.code == 2 and "not its weights" in output.err
        fresh.json("model", "add", tiny_folder, "--name", "base")
    fresh.json("model", "add", "me/tower", "--revision", published["tag"], **words)
    back = fresh.json("history", "tower")
    assert back["head"] == original["head"]
    fields = ("id", "fingerprint", "requests", "delta", "created", "method", "hparams", "seed")
    assert [[one[f] for f in fields] for one in back["revisions"]] == [
        [one[f] for f in fields] for one in original["revisions"]
    ]
    assert fresh.json("rollback", "tower", "base")["verified"]
    ask = ("ask", "tower", PROMPT, "--against", original["head"], "--max-new-tokens", 2)
    ours = ready.json("ask", "tiny", PROMPT, "--against", "base", "--max-new-tokens", 2)["answers"]
    assert [one["completion"] for one in fresh.json(*ask)["answers"]] == [
        one["completion"] for one in ours[::-1]
    ]


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_custom_code_is_published_and_loaded_if_trusted(
    hub: StandIn, fresh: Retcon, tiny_folder: Path
) -> None:
    files = {path.name: Entry(path.read_bytes()) for path in tiny_folder.iterdir()}
    config = json.loads((tiny_folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"},
    }
    files |= {"config.json": Entry(json.dumps(config).encode()), "own_code.py": Entry(OWN_CODE.encode())}
    hub.repos["me/own"] = Repo("me/own", private=False)
    hub.repos["me/own"].add("a model", "", files)
    words = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    fresh.json("model", "list")
    output = fresh.refused("model", "add", "me/own", **words)
    assert "cannot load the config" in output
    assert not [path for _, path in hub.seen if path.endswith(".py")], "not even looked at"
    added = fresh.json("model", "add", "me/own", "--trust-remote-code", **words)
    assert (added["architecture"], added["trust_remote_code"]) == ("OwnModel", True)
    assert fresh.json("ask", "own", PROMPT, "--max-new-tokens", 2)["answers"]


def test_corrupt_download_is_refused(online: Online, hub: StandIn, fresh: Retcon) -> None:
    published = online("publish", "tiny", "tower", *SMALL)
    fresh.json("model", "list")
    hub.faults.append(Fault("GET", "/storage/", how="corrupt", times=1))
    output = fresh.refused("model", "add", "me/tower", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert "is corrupt" in output and ".safetensors" in output
    assert published["commit"] in output, "the message names the file in the cache"


def test_unpublish_needs_confirmation(ready: Retcon, online: Online, hub: StandIn) -> None:
    online("publish", "tiny", "tower", "--as", "adapter", *SMALL)
    output = ready.say("unpublish", "me/tower", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert output.code != 0 and "me/tower" in hub.repos
    online("unpublish", "me/tower", "--yes")
    assert hub.repos == {}
    (row,) = ready.json("hub", "list")["publications"]
    assert row["unpublished"] and row["repo"] == "me/tower"


def test_invalid_repo_names_are_refused(edited: Retcon) -> None:
    for repo in ("a/b/c", "../x", "a b", "-"):
        assert "is not a valid name of a Hub repo" in edited.refused(
            "publish", "tiny", "--as", "adapter", "--", repo
        )


def piped(fresh: Retcon, hub: StandIn, token: str) -> subprocess.CompletedProcess[str]:
    """`retcon hub login` with a token on its standard input."""
    return subprocess.run(
        [RETCON, "hub", "login"],
        input=f"{token}\n",
        env=fresh.environment | {"HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_login_and_logout(fresh: Retcon, hub: StandIn) -> None:
    done = piped(fresh, hub, TOKEN)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr and "Logged in" in done.stderr
    holders = holding(TOKEN, fresh.home.parent)
    assert holders and all(path.is_relative_to(fresh.home.parent / "hub") for path in holders)
    assert all(path.stat().st_mode & 0o077 == 0 for path in holders)
    fresh("hub", "logout")
    assert holding(TOKEN, fresh.home.parent) == []


def test_login_with_invalid_token_fails(fresh: Retcon, hub: StandIn) -> None:
    done = piped(fresh, hub, "hf_wrong")
    assert done.returncode == 2 and "does not accept the token" in done.stderr
    assert "hf_wrong" not in done.stdout + done.stderr
    assert holding("hf_wrong", fresh.home.parent) == []


def test_typed_token_is_not_echoed(fresh: Retcon, hub: StandIn) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["retcon", "hub", "login", "--paste"]
        os.execve(RETCON, words, fresh.environment | {"HF_ENDPOINT": hub.url})
    shown = b""
    while b"Token" not in shown:
        shown += os.read(terminal, 1024)
    time.sleep(0.2)  # until the terminal's echo is off
    os.write(terminal, TOKEN.encode() + b"\n")
    with suppress(OSError):  # the command closes the terminal's other end when it ends
        while chunk := os.read(terminal, 1024):
            shown += chunk
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert TOKEN.encode() not in shown and b"Logged in" in shown
