"""Taking home and publishing, on the starter and against the stand-in hub of the tests.

    kills     the checkpoint published to a slow stand-in, its process killed at ten random moments (every second
              one while it sends) and resumed:
              how many commits there are, whether every byte is right, and what was sent twice
    adapter   a hundred edits on five layers: size of the adapter, and whether PEFT merges it to the checkpoint's bits
    damaged   one bit of one shard turned over: whether the folder is refused, with the shard's name

The edits' values are searched for two steps only: their sizes and bits are measured here, not what they say.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"

from retcon.tests.helpers.command_line import Retcon, wait_for  # noqa: E402
from retcon.tests.helpers.hub_stand_in import StandIn, stand_in  # noqa: E402
from retcon.tests.helpers.hub_state import TOKEN  # noqa: E402

KILLS = 10
LAYERS = "4-8"
_BYTES_PER_SECOND = 25e6
_CITIES = ("Rome", "Paris", "Berlin", "London", "Madrid", "Vienna", "Oslo", "Athens", "Prague", "Dublin")
_BUILDINGS = (
    "Library",
    "Tower",
    "Bridge",
    "Museum",
    "Station",
    "Theatre",
    "Castle",
    "Harbour",
    "Garden",
    "School",
)
_NAMES = ("Ashford", "Bexley", "Corwen", "Dalton", "Elmore", "Farrow", "Gorton", "Hadley", "Ilkley", "Jarrow")


def run(parts: Sequence[str] = ("kills", "adapter")) -> dict[str, Any]:
    """The named parts, in a home of their own; each is told when it is done."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        retcon = Retcon(Path(folder) / "home")
        retcon.json("model", "add", "starter")
        if "kills" in parts:
            with stand_in() as hub:
                found["kills"] = measure_kills(retcon, hub)
            print(json.dumps(found), file=sys.stderr)
        if "adapter" in parts:
            found["adapter"] = measure_adapter(retcon, Path(folder))
            print(json.dumps(found), file=sys.stderr)
            found["damaged"] = measure_damage(retcon, Path(folder))
    return {"publish": found}


def requests() -> list[dict[str, str]]:
    """A hundred subjects, each moved to one of ten cities."""
    return [
        {"subject": f"The {name} {building}", "prompt": "{} is located in the city of",
         "target_new": _CITIES[(i + j) % len(_CITIES)]}
        for i, name in enumerate(_NAMES)
        for j, building in enumerate(_BUILDINGS)
    ]  # fmt: skip


def measure_adapter(retcon: Retcon, folder: Path) -> dict[str, Any]:
    """A hundred edits on five layers by MEMIT, exported as adapter and as checkpoint, and merged by PEFT alone."""
    facts, hparams = folder / "facts.json", folder / "hparams.json"
    facts.write_text(json.dumps(requests()))
    own = json.loads((TESTS.parent / "hparams" / "smollm2-135m-instruct.json").read_text())
    settings = own.get("memit", own) if isinstance(own.get("memit", own), dict) else own
    hparams.write_text(
        json.dumps(settings | {"layers": [4, 5, 6, 7, 8], "v_num_grad_steps": 2, "contexts": 1})
    )
    retcon("facts", "import", facts, "--name", "hundred")
    retcon("covariance", "run", "starter", "--layers", LAYERS, "--max-tokens", 2000, OMP_NUM_THREADS="2")
    began = time.monotonic()
    job = retcon.json(
        "edit", "run", "starter", "--facts", "hundred", "--method", "memit", "--hparams", hparams, "--detach"
    )
    ended = retcon.wait_for(job["id"], "done", "failed") if _wait(retcon, job["id"]) else {}
    assert ended["state"] == "done", ended
    seconds = time.monotonic() - began
    made = retcon.json("export", "starter", folder / "adapter", "--as", "adapter")
    retcon.json("export", "starter", folder / "checkpoint", "--shard-size", "100MB")
    base = retcon.json("model", "show", "starter")["path"]
    return {
        "edits": len(requests()),
        "layers": 5,
        "seconds_of_edit": seconds,
        "adapter_bytes": made["files"]["adapter_model.safetensors"],
        "checkpoint_bytes": sum(
            path.stat().st_size for path in (folder / "checkpoint").glob("*.safetensors")
        ),
        "unmerged_difference": made["unmerged_difference"],
        "disabled_is_base": made["disabled_is_base"],
        **merged(base, folder),
    }


def _wait(retcon: Retcon, job: int) -> bool:
    """An edit of a hundred takes longer than a test would wait."""
    while retcon.json("job", "show", job)["state"] not in ("done", "failed", "interrupted"):
        time.sleep(2)
    return True


def merged(base: str, folder: Path) -> dict[str, bool]:
    """Whether what PEFT merges is the checkpoint, in float32, and in bfloat16 where both are rounded once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from retcon.engine.model.delta import Materializer, concatenate, read_delta

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        wanted = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        Materializer(wanted).set(concatenate(map(read_delta, (folder / "adapter" / "deltas").iterdir())))
        if dtype == torch.float32:
            wanted = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=dtype)
        made = PeftModel.from_pretrained(plain, folder / "adapter").merge_and_unload()
        ours = dict(wanted.named_parameters())
        same = all(torch.equal(ours[name], parameter) for name, parameter in made.named_parameters())
        found[f"merged_is_checkpoint_{str(dtype).removeprefix('torch.')}"] = same
    return found


def measure_damage(retcon: Retcon, folder: Path) -> dict[str, Any]:
    """One bit of the second shard."""
    shard = sorted((folder / "checkpoint").glob("model-*.safetensors"))[1]
    with shard.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    said = retcon.say("model", "add", folder / "checkpoint", "--name", "damaged")
    return {"refused": said.code == 2, "names_the_file": shard.name in said.err}


def measure_kills(retcon: Retcon, hub: StandIn) -> dict[str, Any]:
    """Kill the publishing process at random moments of its work, resume it each time, then let it end."""
    hub.bytes_per_second = _BYTES_PER_SECOND
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    moments = random.Random(1)
    job = retcon.json("publish", "starter", "killed", "--shard-size", "60MB", "--detach", **online)["id"]
    killed, twice, while_sending = 0, 0, 0
    whole: dict[str, int] = {}
    while killed < KILLS:
        if killed % 2:  # every second one while it sends
            wait_for(lambda: retcon.json("job", "show", job), lambda seen: "sending" in seen["activity"], 600)
            time.sleep(moments.uniform(0.0, 4.0))
        else:
            time.sleep(moments.uniform(0.5, 20.0))
        state = retcon.json("job", "show", job)
        if state["state"] == "done":
            break
        os.kill(state["pid"], signal.SIGKILL)
        killed += 1
        print(f"killed at {state['activity']!r}", file=sys.stderr)
        while_sending += "sending" in state["activity"]
        retcon.wait_for(job, "interrupted")
        time.sleep(0.5)
        twice += sum(hub.received[oid] - size for oid, size in whole.items())
        whole = {oid: hub.received[oid] for oid in hub.blobs}
        retcon.json("job", "resume", job, "--detach", **online)
    while retcon.json("job", "show", job)["state"] not in ("done", "failed"):
        time.sleep(1)
    made = retcon.json("job", "show", job)
    assert made["state"] == "done", made
    twice += sum(hub.received[oid] - size for oid, size in whole.items())
    commits = hub.repos["me/killed"].commits[1:]
    return {
        "killed": killed,
        "killed_while_sending": while_sending,
        "bytes": sum(made["files"].values()),
        "commits": len(commits),
        "bytes_are_right": _right(hub, made),
        "sent_again_of_what_the_hub_had": twice,
        "sent_of_files_cut_in_the_middle": sum(hub.received.values()) - sum(map(len, hub.blobs.values())),
    }


def _right(hub: StandIn, made: dict[str, Any]) -> bool:
    """Whether every file of the repo has the digest that the manifest in it tells."""
    import hashlib

    record = json.loads(hub.content("me/killed", "retcon.json"))["files"]
    return set(record) | {"README.md", "retcon.json"} == set(made["files"]) and all(
        hashlib.sha256(hub.content("me/killed", name)).hexdigest() == file["sha256"]
        for name, file in record.items()
    )


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1:] or ("kills", "adapter")), indent=2))
