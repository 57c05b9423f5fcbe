"""Publishing by the command line: a marked token that is nowhere afterwards, a kill, the card, and the way back."""

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

pytestmark = pytest.mark.slow

Online = Callable[..., Any]
# As what lies in the outbox of the ready home was written.
SMALL = ("--shard-size", "40kB")


def written(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def holding(text: str, *folders: Path) -> list[Path]:
    return [path for path in written(*folders) if text.encode() in path.read_bytes()]


def test_the_token_is_nowhere(ready: Retcon, hub: StandIn, tmp_path: Path) -> None:
    """Through a success, refusals and a failure, with a token that is easy to find."""
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    words = ("publish", "tiny", "tower", "--as", "adapter", *SMALL)
    said = []
    for fault in (Fault("POST", "/commit/", 403), Fault("GET", "whoami", 500), Fault("GET", "whoami", 401)):
        hub.faults = [fault]
        said.append(ready.say(*words, **online))
    # Storage addresses are as good as passwords; on the live Hub they carry a signature.
    assert holding("/storage/", ready.home / "logs") == []
    # Asked to, the client logs every request, without the token.
    said += [ready.say(*words, HF_DEBUG="1", **online), ready.say("unpublish", "tower", "--yes", **online)]
    assert [one.code for one in said] == [2, 1, 2, 0, 0], said
    jobs = [one["id"] for one in ready.json("job", "list", "--all")["jobs"]]
    said += [ready.say("job", "log", number) for number in jobs]
    assert any("/commit/" in one.out for one in said), "the log of the client is there"
    assert not [one for one in said if TOKEN in one.out + one.err]
    assert len(written(tmp_path)) > 20
    assert holding(TOKEN, tmp_path) == []


def test_telemetry_is_off(ready: Retcon, online: Online, hub: StandIn) -> None:
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


def test_killed_in_the_middle_and_resumed(ready: Retcon, online: Online, hub: StandIn) -> None:
    hub.faults.append(Fault("PUT", "/storage/", how="slow", times=100))
    job = online("publish", "tiny", "tower", *SMALL, "--detach")
    wait_for(lambda: len(hub.blobs), lambda count: count > 1)
    os.kill(ready.job(job["id"])["pid"], signal.SIGKILL)
    ready.wait_for(job["id"], "interrupted")
    time.sleep(1.2)  # what was under way reaches the server
    before = {oid: size for oid, size in hub.received.items() if oid in hub.blobs}
    hub.faults.clear()
    ended = online("job", "resume", job["id"])
    assert ended["state"] == "done"
    assert [one.oid for one in hub.repos["me/tower"].commits[1:]] == [ended["commit"]]
    assert {oid: hub.received[oid] for oid in before} == before, "what the hub had was not sent again"


def test_the_card(edited: Retcon, hub: StandIn) -> None:
    """The whole way, with nothing in the outbox."""
    words = ("publish", "tiny", "Tower-Test", "--license", "mit")
    made = edited.json(*words, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
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
        "95 % bootstrap intervals", "teacher-forced", "The license of the base: mit", "Made with retcon 0.1.0",
    ):  # fmt: skip
        assert part in text, part
    measured = re.search(r"\| ES \|.*\| (\S+) \(\S+ to \S+\) \| (\S+) \(\S+ to \S+\) \| 1 \|", text)
    assert measured, "before and after, each with its interval"
    # The heat map of the traced request is there and shown.
    (picture,) = [name for name in made["files"] if name.startswith("pictures/")]
    assert f"]({picture})" in text and hub.content("me/Tower-Test", picture).startswith(b"\x89PNG")
    assert made["warnings"] == []


def test_a_dry_run_shows_the_card_which_can_be_edited(
    ready: Retcon, online: Online, hub: StandIn, tmp_path: Path
) -> None:
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
def test_from_the_hub_back(
    what: str, ready: Retcon, online: Online, hub: StandIn, fresh: Retcon, tiny_folder: Path
) -> None:
    made = online("publish", "tiny", "tower", "--as", what, *SMALL)
    there = ready.json("history", "tiny")
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
    ours = ready.json("ask", "tiny", PROMPT, "--against", "base", "--max-new-tokens", 2)["answers"]
    assert [one["completion"] for one in fresh.json(*asked)["answers"]] == [
        one["completion"] for one in ours[::-1]
    ]


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_models_own_code_comes_along_where_it_is_trusted(
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
    said = fresh.refused("model", "add", "me/own", **words)
    assert "cannot load the config" in said
    assert not [path for _, path in hub.seen if path.endswith(".py")], "not even looked at"
    added = fresh.json("model", "add", "me/own", "--trust-remote-code", **words)
    assert (added["architecture"], added["trust_remote_code"]) == ("OwnModel", True)
    assert fresh.json("ask", "own", PROMPT, "--max-new-tokens", 2)["answers"]


def test_a_file_that_was_spoiled_on_the_way_down(online: Online, hub: StandIn, fresh: Retcon) -> None:
    made = online("publish", "tiny", "tower", *SMALL)
    fresh.json("model", "list")
    hub.faults.append(Fault("GET", "/storage/", how="corrupt", times=1))
    said = fresh.refused("model", "add", "me/tower", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert "is corrupt" in said and ".safetensors" in said
    assert made["commit"] in said, "the file is named by its place in the cache"


def test_unpublish_asks(ready: Retcon, online: Online, hub: StandIn) -> None:
    online("publish", "tiny", "tower", "--as", "adapter", *SMALL)
    said = ready.say("unpublish", "me/tower", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert said.code != 0 and "me/tower" in hub.repos
    online("unpublish", "me/tower", "--yes")
    assert hub.repos == {}
    (row,) = ready.json("hub", "list")["publications"]
    assert row["unpublished"] and row["repo"] == "me/tower"


def test_what_cannot_name_a_repo(edited: Retcon) -> None:
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


def test_log_in_and_out(fresh: Retcon, hub: StandIn) -> None:
    done = piped(fresh, hub, TOKEN)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr and "Logged in" in done.stderr
    kept = holding(TOKEN, fresh.home.parent)
    assert kept and all(path.is_relative_to(fresh.home.parent / "hub") for path in kept)
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    fresh("hub", "logout")
    assert holding(TOKEN, fresh.home.parent) == []


def test_a_token_that_the_hub_refuses(fresh: Retcon, hub: StandIn) -> None:
    done = piped(fresh, hub, "hf_wrong")
    assert done.returncode == 2 and "does not accept the token" in done.stderr
    assert "hf_wrong" not in done.stdout + done.stderr
    assert holding("hf_wrong", fresh.home.parent) == []


def test_a_token_is_typed_without_an_echo(fresh: Retcon, hub: StandIn) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["retcon", "hub", "login", "--paste"]
        os.execve(RETCON, words, fresh.environment | {"HF_ENDPOINT": hub.url})
    shown = b""
    while b"Token" not in shown:
        shown += os.read(terminal, 1024)
    time.sleep(0.2)  # until the echo is off
    os.write(terminal, TOKEN.encode() + b"\n")
    with suppress(OSError):  # the terminal's other end is closed when the command ends
        while chunk := os.read(terminal, 1024):
            shown += chunk
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert TOKEN.encode() not in shown and b"Logged in" in shown
