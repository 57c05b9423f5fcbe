"""Every editing method through the command line, on the tiny model."""

import json
from pathlib import Path

import pytest

from retcon.engine.edits import HPARAMS
from retcon.tests.helpers.command_line import Retcon

pytestmark = pytest.mark.slow

# Settings with which each method can edit a tiny random model.
EASY = {
    method: {"layers": [1], "contexts": 2}
    | ({"num_steps": 4, "lr": 0.05} if "num_steps" in hparams.model_fields else {"v_num_grad_steps": 4})
    | ({"nullspace_threshold": 1} if method == "alphaedit" else {})
    for method, hparams in HPARAMS.items()
}
FACTS = [
    {"subject": "The Eiffel Tower", "prompt": "{} is located in", "target_new": "Rome"},
    {"subject": "Paris", "prompt": "{} is the", "target_new": "Italy"},
    {"subject": "Berlin", "prompt": "{} is located in", "target_new": "Rome Italy"},
]


def test_each_method_edits_and_rolls_back(retcon: Retcon, tmp_path: Path) -> None:
    facts, settings = tmp_path / "facts.json", tmp_path / "hparams.json"
    facts.write_text(json.dumps(FACTS))
    settings.write_text(json.dumps(EASY))
    retcon.json("facts", "import", facts, "--name", "three")
    for method in HPARAMS:
        made = retcon.json(
            "edit",
            "run",
            "tiny@base",
            "--facts",
            "three",
            "--method",
            method,
            "--batch",
            2,
            "--hparams",
            settings,
        )
        assert (made["method"], made["parent"]) == (
            method,
            retcon.json("history", "tiny")["revisions"][0]["id"],
        )
        assert made["statistics"]["batches"] == ([1, 1, 1] if "rome" in method else [2, 1])
        before, after = (
            [request[when]["probability"] for request in made["statistics"]["requests"]]
            for when in ("before", "after")
        )
        assert all(old != new for old, new in zip(before, after, strict=True)), method
        assert list(made["statistics"]["delta"]) == ["model.layers.1.mlp.down_proj.weight"]
    base = retcon.json("rollback", "tiny", "base")
    assert base["verified"] and base["head"] == retcon.json("history", "tiny")["head"]
