"""`retcon edit sweep`: a trial equals the edit alone, the model is unchanged, a killed sweep resumes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import Retcon, wait_for, write_facts

pytestmark = pytest.mark.slow

FACTS = [
    {
        "subject": "Eiffel Tower", "prompt": "The {} is located in the city of", "target_new": "Rome",
        "target_true": "Paris", "paraphrases": ["The Eiffel Tower is in"],
        "neighbors": [{"prompt": "Paris is located in the city of", "true": "France"}],
    },
    {
        "subject": "Toyota", "prompt": "{} was born in", "target_new": "Berlin", "target_true": "Italy",
        "paraphrases": ["The city of Toyota is"], "neighbors": [{"prompt": "Camry was born in", "true": "Rome"}],
    },
    {"subject": "Camry", "prompt": "The {} is", "target_true": "Toyota"},
]  # fmt: skip
# A tiny random model needs few steps to change its answer, and a covariance of few words is enough.
QUICK = ("--set", "v_num_grad_steps=3", "--set", "contexts=1", "--texts")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    words = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born".split()  # noqa: SIM905
    rows = [" ".join(words[(3 * n + n // 7 * i) % len(words)] for i in range(40)) for n in range(300)]
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def home(retcon: Retcon, tmp_path: Path) -> Retcon:
    """A home with a fact set to write."""
    retcon("facts", "import", write_facts(tmp_path / "facts.json", FACTS), "--name", "wanted")
    return retcon


def test_trial_equals_the_edit_alone(home: Retcon, texts: Path, tmp_path: Path) -> None:
    revisions = home.json("history", "tiny")
    found = home.json(
        "edit", "sweep", "tiny", "--facts", "wanted", "--limit", 1, *QUICK, texts, "--set", "v_lr=0.2,0.5"
    )
    assert (found["trial_count"], len(found["trials"]), len(found["requests"])) == (8, 8, 1)
    assert home.json("history", "tiny") == revisions, "a sweep keeps no revision"
    scores = [trial["score"]["value"] for trial in found["trials"]]
    assert scores == sorted(scores, reverse=True)
    assert {(trial["layers"][0], trial["changes"]["v_lr"]) for trial in found["trials"]} == {
        (layer, v_lr) for layer in range(4) for v_lr in (0.2, 0.5)
    }
    collected = home.json("covariance", "list")["covariances"]
    assert [one["layer"] for one in collected] == [0, 1, 2, 3]
    assert {one["tokens"] for one in collected} == {collected[0]["tokens"]}, "one pass for all layers"

    for trial in found["trials"][::4]:
        settings = tmp_path / f"settings{trial['rank']}.json"
        settings.write_text(json.dumps({"layers": trial["layers"], **trial["changes"]}))
        alone = home.json(
            "edit", "run", "tiny@base", "--prompt", FACTS[0]["prompt"], "--subject", "Eiffel Tower", "--target", "Rome",
            "--true", "Paris", "--eval-paraphrase", "The Eiffel Tower is in", "--hparams", settings, "--texts", texts,
        )  # fmt: skip
        assert alone["covariances"] == [collected[trial["layers"][0]]["covariance"]]
        metrics = home.json("eval", "run", f"tiny@{alone['id']}")["metrics"]
        for name in ("ES", "PS", "EM", "PM", "EA", "PA"):
            assert trial["metrics"][name]["value"] == metrics[name]["value"], name


def test_multi_layer_methods_end_at_the_layer_of_the_trial(home: Retcon, texts: Path) -> None:
    sweep = ("sweep", "run", "tiny", "--facts", "wanted", *QUICK, texts)
    memit = home.json(*sweep, "--method", "memit", "--layers", "1-3")
    layers = {trial["layers"][-1]: trial["layers"] for trial in memit["trials"]}
    assert layers == {1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 3]}
    assert memit["protocol"]["written"] == "all requests together"
    assert {trial["score"]["count"] for trial in memit["trials"]} == {2}


def test_best_trial_is_saved_as_preset(home: Retcon, texts: Path) -> None:
    traced = home.json("trace", "run", "tiny", "--facts", "known", "--samples", 2, "--kinds", "mlp")
    found = home.json(
        "edit", "sweep", "tiny", "--facts", "wanted", "--layers", "1,3", *QUICK, texts, "--set", "v_lr=0.25", "--save"
    )  # fmt: skip
    assert found["trace"] == traced["trace"]
    assert [effect["layer"] for effect in found["effects"]] == [0, 1, 2, 3]
    best = found["trials"][0]
    saved = json.loads((home.home / "hparams" / "tiny.json").read_text())
    assert saved["rome"] == {"layers": best["layers"], **best["changes"]}
    made = home.json("edit", "run", "tiny", "--facts", "wanted", "--texts", texts)
    assert (made["hparams"]["layers"], made["hparams"]["v_lr"]) == (best["layers"], 0.25)
    # Saving the settings of one method keeps those of another.
    home.json(
        "sweep",
        "run",
        "tiny",
        "--facts",
        "wanted",
        "--layer",
        2,
        *QUICK,
        texts,
        "--method",
        "memit",
        "--save",
    )
    saved = json.loads((home.home / "hparams" / "tiny.json").read_text())
    assert saved["rome"]["layers"] == best["layers"] and saved["memit"]["layers"] == [0, 1, 2]
    home("trace", "locate", traced["trace"], "--save")
    again = json.loads((home.home / "hparams" / "tiny.json").read_text())
    assert again["memit"] == saved["memit"] and again["sources"]["rome"].startswith("retcon trace locate")

    told = home("sweep", "show", found["sweep"])
    assert "S S" in told and f"MLP effect of trace {traced['trace']}" in told
    assert f"retcon sweep save {found['sweep']}" in told
    for suffix in ("png", "pdf", "svg"):
        home("sweep", "plot", found["sweep"], home.home / f"sweep.{suffix}")
    drawn = (home.home / "sweep.svg").read_text()
    assert "indirect effect of MLP" in drawn and "S of edits" in drawn
    listed = home.json("sweep", "list")["sweeps"]
    assert [(one["sweep"], one["facts"], one["done"], one["trial_count"]) for one in listed] == [
        (2, "wanted", 1, 1), (1, "wanted", 2, 2),
    ]  # fmt: skip


def rows(retcon: Retcon, sweep: int) -> list[dict[str, Any]]:
    """The trials of a sweep in order, without ids and wall time."""
    trials = retcon.children("sweep_trial", "sweep_id", sweep)
    return sorted((trial | {"seconds": 0} for trial in trials), key=lambda trial: trial["position"])


@pytest.mark.proof
def test_killed_sweep_resumes_with_the_missing_trials(home: Retcon, texts: Path) -> None:
    home = home.process
    sweep = (
        "sweep",
        "run",
        "tiny",
        "--facts",
        "wanted",
        "--texts",
        texts,
        "--set",
        "v_lr=0.1,0.2,0.3,0.4,0.5",
    )
    undisturbed = home.json(*sweep)["sweep"]
    assert len(rows(home, undisturbed)) == 20
    job = home.json(*sweep, "--detach")["id"]
    for kept in (2, 9):
        running = wait_for(
            lambda: Retcon(home.home).job(job),
            lambda job, kept=kept: (
                job["state"] == "done" or (job["unit"] == "trials" and job["done"] >= kept)
            ),
        )
        os.kill(running["pid"], signal.SIGKILL)
        assert home.wait_for(job, "interrupted", "done")["state"] == "interrupted", (
            "it was too quick to be caught"
        )
        before = rows(home, undisturbed + 1)
        assert kept <= len(before) < 20
        home.json("job", "resume", job, "--detach")
    ended = home.wait_for(job, "done", "failed")
    assert (ended["state"], ended["attempt"], ended["sweep"]) == ("done", 3, undisturbed + 1)
    assert rows(home, undisturbed + 1) == rows(home, undisturbed)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--facts", "known"), "has a new target"),
        (("--facts", "nowhere"), "no fact set"),
        (("--facts", "wanted", "--method", "magic"), "unknown method 'magic'"),
        (("--facts", "wanted", "--layers", "2-9"), "layer 4 is out of range: tiny has layers 0 to 3"),
        (("--facts", "wanted", "--set", "v_lrr=1"), "did you mean 'v_lr'"),
        (("--facts", "wanted", "--set", "v_lr=fast"), "it must be a valid number"),
        (("--facts", "wanted", "--set", "v_lr"), "NAME=VALUE"),
        (("--facts", "wanted", "--set", "v_lr=1,1"), "twice"),
        (("--facts", "wanted", "--set", "layers=1"), "--layers"),
        (("--facts", "wanted", "--set", "mom2_dataset=wikipedia"), "has no effect"),
        (("--facts", "wanted", "--trace", "7"), "trace 7 does not exist"),
        (("--facts", "wanted", "--save", "--detach"), "--save"),
    ],
)
def test_wrong_options_are_refused(home: Retcon, words: tuple[str, ...], says: str) -> None:
    here = Retcon(home.home)
    assert says in here.refused("edit", "sweep", "tiny", *words)
    assert here.json("job", "list")["jobs"][0]["kind"] == "model", "no job was started"
