"""Exports and publications of the starter, on the stand-in hub of the tests.

    kills     publish the checkpoint to a slow stand-in, kill the process at ten random moments (every second one
              during an upload) and resume it: number of commits, whether each byte is right, and bytes sent twice
    adapter   a hundred edits on five layers: size of the adapter, and whether PEFT merges it to the checkpoint's bits
    damaged   one flipped bit in one shard: whether the folder is refused with the name of the shard

PARTS=kills,adapter KILLS=10 EDITS=100 make bench BENCH=publish. The values of the edits are searched in two steps
only: the benchmark measures sizes and bits, and not the answers.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from retcon.store.states import ENDED_STATES
from retcon.tests.helpers.hub_stand_in import StandIn, stand_in
from retcon.tests.helpers.hub_state import TOKEN

from .command_line import RETCON, CommandLine

_PRESET = Path(__file__).parents[1] / "hparams" / "smollm2-135m-instruct.json"
_KILLS = int(os.environ.get("KILLS", "10"))
_EDITS = int(os.environ.get("EDITS", "100"))
_LAYERS = [4, 5, 6, 7, 8]
_BYTES_PER_SECOND = 25e6
_CITIES = ("Rome", "Paris", "Berlin", "London", "Madrid", "Vienna", "Oslo", "Athens", "Prague", "Dublin")
_BUILDINGS = ("Library", "Tower", "Bridge", "Museum", "Station", "Theatre", "Castle", "Harbour", "Garden",
              "School")  # fmt: skip
_NAMES = ("Ashford", "Bexley", "Corwen", "Dalton", "Elmore", "Farrow", "Gorton", "Hadley", "Ilkley", "Jarrow")


def run() -> dict[str, Any]:
    """The figures of PARTS, on a new home."""
    parts = os.environ.get("PARTS", "kills,adapter").split(",")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        retcon = _create_home(folder)
        retcon("model", "add", "starter")
        if "kills" in parts:
            with stand_in() as hub:
                figures["kills"] = measure_kills(retcon, hub)
        if "adapter" in parts:
            figures["adapter"] = measure_adapter(retcon, folder)
            figures["damaged"] = measure_damage(retcon, folder)
    return {"publish": figures}


def _create_home(folder: Path) -> CommandLine:
    """A home without the user's hub: its cache and its token are not used."""
    own = {"HF_HOME": str(folder / "hub"), "RETCON_LOCKS": str(folder), "OMP_NUM_THREADS": "1"}
    retcon = CommandLine(folder / "home", own)
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        retcon.environment.pop(name, None)
    return retcon


def build_requests() -> list[dict[str, str]]:
    """EDITS subjects (at most a hundred). Each is moved to one of ten cities."""
    requests = [
        {"subject": f"The {name} {building}", "prompt": "{} is located in the city of",
         "target_new": _CITIES[(i + j) % len(_CITIES)]}
        for i, name in enumerate(_NAMES)
        for j, building in enumerate(_BUILDINGS)
    ]  # fmt: skip
    return requests[:_EDITS]


def measure_adapter(retcon: CommandLine, folder: Path) -> dict[str, Any]:
    """MEMIT edits on five layers, exported as an adapter and as a checkpoint, and merged by PEFT alone."""
    facts, hparams = folder / "facts.json", folder / "hparams.json"
    facts.write_text(json.dumps(build_requests()))
    settings = json.loads(_PRESET.read_text())["memit"]
    hparams.write_text(json.dumps(settings | {"layers": _LAYERS, "v_num_grad_steps": 2, "contexts": 1}))
    retcon("facts", "import", facts, "--name", "requests")
    layers = f"{_LAYERS[0]}-{_LAYERS[-1]}"
    retcon("covariance", "run", "starter", "--layers", layers, "--max-tokens", 2000, OMP_NUM_THREADS="2")
    began = time.monotonic()
    job = retcon(
        "edit", "run", "starter", "--facts", "requests", "--method", "memit", "--hparams", hparams, "--detach"
    )
    retcon.wait_for_job(int(job), seconds=2)
    seconds = time.monotonic() - began
    export = retcon.json("export", "starter", folder / "adapter", "--as", "adapter")
    retcon.json("export", "starter", folder / "checkpoint", "--shard-size", "100MB")
    shards = (folder / "checkpoint").glob("*.safetensors")
    return {
        "edits": len(build_requests()),
        "layers": len(_LAYERS),
        "seconds_of_edit": seconds,
        "adapter_bytes": export["files"]["adapter_model.safetensors"],
        "checkpoint_bytes": sum(path.stat().st_size for path in shards),
        "unmerged_difference": export["unmerged_difference"],
        "disabled_is_base": export["disabled_is_base"],
        **compare_merged(retcon.json("model", "show", "starter")["path"], folder),
    }


def compare_merged(base: str, folder: Path) -> dict[str, bool]:
    """Whether PEFT merges to the checkpoint in float32, and in bfloat16, where both are rounded once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from retcon.engine.model.delta import Materializer, concatenate, read_delta

    figures = {}
    for dtype in (torch.float32, torch.bfloat16):
        base_model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        if dtype == torch.float32:
            expected = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=dtype)
        else:
            expected = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
            deltas = (folder / "adapter" / "deltas").iterdir()
            Materializer(expected).set(concatenate(map(read_delta, deltas)))
        merged = PeftModel.from_pretrained(base_model, folder / "adapter").merge_and_unload()
        parameters = dict(expected.named_parameters())
        is_same = all(torch.equal(parameters[name], value) for name, value in merged.named_parameters())
        figures[f"merged_is_checkpoint_{str(dtype).removeprefix('torch.')}"] = is_same
    return figures


def measure_damage(retcon: CommandLine, folder: Path) -> dict[str, Any]:
    """Flip one bit of the second shard and add the folder as a model."""
    shard = sorted((folder / "checkpoint").glob("model-*.safetensors"))[1]
    with shard.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    command = [RETCON, "model", "add", str(folder / "checkpoint"), "--name", "damaged"]
    process = subprocess.run(command, env=retcon.environment, capture_output=True, text=True, check=False)
    return {"refused": process.returncode == 2, "names_the_file": shard.name in process.stderr}


def measure_kills(retcon: CommandLine, hub: StandIn) -> dict[str, Any]:
    """Kill the publishing process at random moments and resume it each time. Then let it end."""
    hub.bytes_per_second = _BYTES_PER_SECOND
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    moments = random.Random(1)
    job = retcon.json("publish", "starter", "killed", "--shard-size", "60MB", "--detach", **online)["id"]
    kills = sent_twice = kills_while_uploading = 0
    complete: dict[str, int] = {}
    while kills < _KILLS:
        if kills % 2:
            _wait_for_upload(retcon, job)
            time.sleep(moments.uniform(0.0, 4.0))
        else:
            time.sleep(moments.uniform(0.5, 20.0))
        record = retcon.json("job", "show", job)
        if record["state"] in ENDED_STATES:
            break
        if record["pid"] is None:  # The process has not claimed the job yet.
            continue
        with suppress(ProcessLookupError):
            os.kill(record["pid"], signal.SIGKILL)
        while (state := retcon.json("job", "show", job)["state"]) not in ENDED_STATES:
            time.sleep(0.1)
        if state == "done":  # The process had written its result before the kill.
            break
        kills += 1
        print(f"killed at {record['activity']!r}", file=sys.stderr)
        kills_while_uploading += record["activity"].startswith("uploading")
        time.sleep(0.5)
        sent_twice += sum(hub.received[oid] - size for oid, size in complete.items())
        complete = {oid: hub.received[oid] for oid in hub.blobs}
        retcon.json("job", "resume", job, "--detach", **online)
    record = retcon.wait_for_job(job, seconds=1)
    sent_twice += sum(hub.received[oid] - size for oid, size in complete.items())
    return {
        "killed": kills,
        "killed_while_uploading": kills_while_uploading,
        "bytes": sum(record["files"].values()),
        "commits": len(hub.repos["me/killed"].commits[1:]),
        "bytes_are_right": _has_right_bytes(hub, record["files"]),
        "sent_again_of_what_the_hub_had": sent_twice,
        "sent_of_interrupted_uploads": sum(hub.received.values()) - sum(map(len, hub.blobs.values())),
    }


def _wait_for_upload(retcon: CommandLine, job: int) -> None:
    """Wait until the job uploads a file or has ended."""
    while True:
        record = retcon.json("job", "show", job)
        if record["activity"].startswith("uploading") or record["state"] in ENDED_STATES:
            return
        time.sleep(0.1)


def _has_right_bytes(hub: StandIn, names: dict[str, int]) -> bool:
    """Whether each file of the repo has the digest in the repo's manifest."""
    files = json.loads(hub.content("me/killed", "retcon.json"))["files"]
    return set(files) | {"README.md", "retcon.json"} == set(names) and all(
        hashlib.sha256(hub.content("me/killed", name)).hexdigest() == file["sha256"]
        for name, file in files.items()
    )
