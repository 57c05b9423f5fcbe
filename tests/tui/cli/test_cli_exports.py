"""Exports of the tiny model as checkpoint, adapter and deltas, and their import."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import FIELD, Retcon, write_facts

pytestmark = pytest.mark.slow

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"
EXPORT_KINDS = ("checkpoint", "adapter", "delta")


@dataclass
class Taken:
    """A home with three edits, one of them reverted, and its exports."""

    retcon: Retcon
    folder: Path
    history: dict[str, Any]
    exports: dict[str, Any]

    @property
    def head(self) -> dict[str, Any]:
        return next(one for one in self.history["revisions"] if one["id"] == self.history["head"])


@pytest.fixture
def empty(fresh: Retcon) -> Retcon:
    """A home with an empty catalog."""
    fresh.json("model", "list")
    return fresh


@pytest.fixture(scope="module")
def taken(
    template_home: Path, known_facts: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Taken:
    folder = tmp_path_factory.mktemp("taken")
    retcon = Retcon(template_home).copy(folder / "home")
    for layer in (1, 2):
        (folder / f"{layer}.json").write_text(json.dumps(FIELD | {"layers": [layer]}))
    facts = write_facts(folder / "facts.json", [known_facts[5] | {"target_new": "Rome"}])
    retcon("facts", "import", facts, "--name", "one")
    one = ("--prompt", PROMPT, "--subject", SUBJECT, "--target", "Rome")
    retcon("edit", "run", "tiny", *one, "--method", "rome", "--hparams", folder / "1.json")
    out = retcon.json("edit", "run", "tiny", "--facts", "one", "--hparams", folder / "2.json")
    other = ("--prompt", "Toyota Camry is produced by", "--subject", "Toyota Camry", "--target", "Italy")
    retcon("edit", "run", "tiny", *other, "--hparams", folder / "2.json")
    retcon("revert", "tiny", out["id"])
    retcon("eval", "run", "tiny", "--suite", "quick")
    exports = {
        what: retcon.json("export", "tiny", folder / what, "--as", what, "--shard-size", "40kB")
        for what in EXPORT_KINDS
    }
    return Taken(retcon, folder, retcon.json("history", "tiny"), exports)


@pytest.mark.parametrize("what", EXPORT_KINDS)
def test_another_process_verified_the_export(what: str, taken: Taken) -> None:
    made = taken.exports[what]
    assert made["fingerprint"] == taken.head["fingerprint"]
    assert [(one["prompt"], one["target"]) for one in made["answers"]] == [
        (PROMPT, "Rome"),
        ("Toyota Camry is produced by", "Italy"),
    ]
    written = {
        path.relative_to(taken.folder / what).as_posix(): path.stat().st_size
        for path in (taken.folder / what).rglob("*")
        if path.is_file() and path.name != "retcon.json"
    }
    assert made["files"] == written


def test_checkpoint_is_sharded_and_complete(taken: Taken) -> None:
    names = set(taken.exports["checkpoint"]["files"])
    shards = {name for name in names if name.startswith("model-0")}
    assert len(shards) > 2
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= names


def test_peft_merges_the_adapter_to_the_checkpoint_bits(taken: Taken, tiny_folder: Path) -> None:
    program = (
        "import sys, torch; from transformers import AutoModelForCausalLM as M; from peft import PeftModel;"
        "base, made = M.from_pretrained(sys.argv[1]), M.from_pretrained(sys.argv[2]);"
        "merged = PeftModel.from_pretrained(M.from_pretrained(sys.argv[1]), sys.argv[3]).merge_and_unload();"
        "a, b, c = (dict(m.named_parameters()) for m in (merged, made, base));"
        "print(a.keys() == b.keys(), all(torch.equal(a[n], b[n]) for n in a));"
        "print(*(n for n in a if not torch.equal(a[n], c[n])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_folder, taken.folder / "checkpoint", taken.folder / "adapter"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    changed = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2)]
    assert done.stdout.split() == ["True", "True", *changed]
    assert taken.exports["adapter"]["disabled_is_base"] is True
    assert 0 <= taken.exports["adapter"]["unmerged_difference"] < 1e-4


def test_manifest_contains_no_local_paths(taken: Taken, tiny_folder: Path) -> None:
    for what in EXPORT_KINDS:
        text = (taken.folder / what / "retcon.json").read_text()
        assert str(taken.folder) not in text and str(tiny_folder.parent) not in text


@pytest.mark.parametrize("what", EXPORT_KINDS)
def test_edits_are_imported_to_the_same_base(
    what: str, taken: Taken, empty: Retcon, tiny_folder: Path
) -> None:
    empty.json("model", "add", tiny_folder, "--name", "mine")
    made = empty.json("edit", "import", taken.folder / what, "mine")
    there = empty.json("history", "mine")
    assert there["head"] == made["revision"] == taken.history["head"]
    fields = ("id", "kind", "method", "requests", "hparams", "delta", "message", "fingerprint", "created")
    mine, theirs = ([[one[f] for f in fields] for one in h["revisions"][1:]] for h in (there, taken.history))
    assert mine == theirs
    assert empty.json("rollback", "mine", made["imported"][0])["verified"]
    # A second import adds nothing and moves the head to the exported revision.
    assert empty.json("edit", "import", taken.folder / what, "mine")["revision"] == made["revision"]
    assert len(empty.json("history", "mine")["revisions"]) == len(there["revisions"])


def test_edits_are_imported_to_a_model_of_another_name(
    taken: Taken, tiny_folder: Path, tmp_path: Path
) -> None:
    retcon = taken.retcon.copy(tmp_path / "home")
    retcon.json("model", "add", tiny_folder, "--name", "twin")
    made = retcon.json("edit", "import", taken.folder / "delta", "twin")
    assert not set(made["imported"]) & {one["id"] for one in taken.history["revisions"]}
    head = next(r for r in retcon.json("history", "twin")["revisions"] if r["id"] == made["revision"])
    assert head["fingerprint"] == taken.head["fingerprint"]
    assert retcon.json("edit", "import", taken.folder / "delta", "twin") == made
    # The model that they came from has them already.
    own = retcon.json("edit", "import", taken.folder / "delta", "tiny")
    assert own["revision"] == taken.history["head"]
    assert retcon.json("history", "tiny") == taken.history


def test_import_refuses_another_base(taken: Taken, broken_model: Path, empty: Retcon) -> None:
    from safetensors.torch import load_file, save_file

    path = broken_model / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, path, {"format": "pt"})
    empty.json("model", "add", broken_model, "--name", "other")
    said = empty.refused("edit", "import", taken.folder / "delta", "other")
    assert "another base" in said and taken.history["revisions"][0]["fingerprint"][:12] in said


@pytest.mark.parametrize("what", ["checkpoint", "delta"])
def test_import_names_the_corrupt_file(what: str, taken: Taken, empty: Retcon, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(taken.folder / what, tmp_path / "damaged"))
    shard = sorted(folder.rglob("*.safetensors"))[-1]
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    said = empty.refused("model", "add", folder, "--name", "damaged")
    assert f"{shard} is corrupt" in said and "sha256" in said
    shard.write_bytes(data[:-5])
    assert f"{shard} is " in empty.refused("model", "add", folder, "--name", "damaged")
    shard.unlink()
    said = empty.refused("model", "add", folder, "--name", "damaged")
    assert shard.name in said and "missing" in said


def test_checkpoint_restores_history_and_base(taken: Taken, empty: Retcon, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(taken.folder / "checkpoint", tmp_path / "elsewhere"))
    added = empty.json("model", "add", folder, "--name", "again")
    there = empty.json("history", "again")
    assert there["head"] == added["head"] == taken.history["head"]
    assert [one["fingerprint"] for one in there["revisions"]] == [
        one["fingerprint"] for one in taken.history["revisions"]
    ]
    assert added["fingerprint"] == taken.history["revisions"][0]["fingerprint"]
    # The home has its own copy of the base, so the export is no longer needed.
    shutil.rmtree(folder)
    assert empty.json("rollback", "again", "base")["verified"]
    # The restored history exports the same files.
    again = empty.json("export", f"again@{there['head']}", tmp_path / "again", "--as", "delta")
    assert again["fingerprint"] == taken.head["fingerprint"]


@pytest.mark.parametrize("what", ["adapter", "delta"])
def test_model_add_refuses_edits_without_base(what: str, taken: Taken, empty: Retcon) -> None:
    said = empty.refused("model", "add", taken.folder / what, "--name", "lonely")
    assert "not its weights" in said and "retcon edit import" in said


def test_adapter_of_a_base_is_refused(taken: Taken, tmp_path: Path) -> None:
    for what in ("adapter", "delta"):
        said = taken.retcon.say("export", "tiny@base", tmp_path / what, "--as", what)
        assert said.code == 2 and "no edits" in said.err
        assert not (tmp_path / what).exists()
