"""The tiny model on the command line: a fixture runs all commands once, and the tests check the results."""

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import FIELD, Retcon, write_facts

pytestmark = pytest.mark.slow

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"
TOKEN = "hf_marked0123456789"
EVIL = "\x1b[31m[bold]Tower[/bold]\u202e"


@dataclass
class Story:
    """The JSON results of the commands."""

    retcon: Retcon
    texts: Path
    exported: Path
    folder: Path
    said: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.said[name]


@pytest.fixture(scope="module")
def story(
    template_home: Path, known_facts: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Story:
    folder = tmp_path_factory.mktemp("story")
    retcon = Retcon(template_home).copy(folder / "home")
    texts = folder / "texts.jsonl"
    words = [*PROMPT.split(), "Paris", "Rome", "Berlin", "France", "Italy", "born", "he", "she", "plays"]
    rows = [" ".join(words[(3 * n + n // 5 * i) % len(words)] for i in range(30)) for n in range(120)]
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    hparams = folder / "hparams.json"
    hparams.write_text(json.dumps(FIELD | {"layers": [1]}))
    edits = [known_facts[5] | {"target_new": "Rome"}, known_facts[7] | {"target_new": "Italy"}]
    neighbors = [{"prompt": "The Berlin is located in the city of", "true": "you"}]
    edits[0] |= {"paraphrases": ["Where is it , the city"], "neighbors": neighbors}
    retcon("facts", "import", write_facts(folder / "edits.json", edits), "--name", "edits")

    said: dict[str, Any] = {"base": retcon.json("history", "tiny")["head"]}
    one = ("--prompt", PROMPT, "--subject", SUBJECT)
    said["trace"] = retcon.json("trace", "run", "tiny", *one, "--noise", "0.4", "--samples", 3)
    said["mixed"] = retcon("trace", "run", "tiny", "--facts", "mixed", "--samples", 2, "--window", 2)
    said["covariances"] = retcon.json(
        "covariance", "run", "tiny", "--layers", "1,2", "--texts", texts, "--max-tokens", 2500, HF_TOKEN=TOKEN
    )
    said["first"] = retcon.json(
        "edit", "run", "tiny", *one, "--target", " Rome", "--true", "Paris", "--layer", 2, "-m", "first"
    )
    said["second"] = retcon.json(
        "edit", "run", "tiny", "--facts", "edits", "--method", "r-rome", "--layer", 2, "--seed", 3
    )
    said["third"] = retcon.json(
        "edit", "run", "tiny", "--prompt", f"{EVIL} is in", "--subject", EVIL, "--target", "Italy",
        "--hparams", hparams, "--method", "rome",
    )  # fmt: skip
    said["eval"] = retcon.json("eval", "run", "tiny", "--max-new-tokens", 3, "--facts", "edits")
    asked = ("ask", "tiny", PROMPT, "--max-new-tokens", 4)
    said["ask"] = retcon.json(
        *asked, "--against", "base", "--against", said["first"]["id"][:6], HF_TOKEN=TOKEN
    )
    said["reverted"] = retcon.json("revert", "tiny", said["second"]["id"], "-m", "not that one")
    exported = folder / "deep" / "exported"
    said["export"] = retcon.json("export", f"tiny@{said['third']['id']}", exported, "--as", "checkpoint")
    said["rollback"] = retcon.json("rollback", "tiny", "base")
    return Story(Retcon(retcon.home), texts, exported, folder, said)


def test_model_show_has_source_and_anatomy(story: Story, tiny_folder: Path) -> None:
    (model,) = story.retcon.json("model", "list")["models"]
    assert model == story.retcon.json("model", "show", "tiny")
    assert (model["name"], model["source"], model["source_kind"]) == ("tiny", str(tiny_folder), "folder")
    assert (model["architecture"], model["dtype"]) == ("LlamaForCausalLM", "float32")
    assert model["head"] == story["base"]
    assert model["anatomy"]["matrix"] == "mlp.down_proj"
    assert "anatomy.matrix" in story.retcon("model", "show", "tiny")


def test_trace_json_has_the_documented_shape(story: Story) -> None:
    answer = story["trace"]
    (result,) = answer["results"]
    tokens = ["<s>", *PROMPT.split()]
    assert (result["prompt"], result["subject"], result["tokens"]) == (PROMPT, SUBJECT, tokens)
    assert result["subject_range"] == [2, 4]
    assert list(result["kinds"]) == ["hidden", "mlp", "attn"]
    for kind, table in result["kinds"].items():
        assert table["window"] == (1 if kind == "hidden" else 10)
        assert [len(row) for row in table["scores"]] == [4] * len(tokens)
        assert all(0 <= score <= 1 for row in table["scores"] for score in row)
    assert 0 < result["low"] < 1 and 0 < result["high"] < 1
    # Restoring the last state at the last token is the clean run.
    assert result["kinds"]["hidden"]["scores"][-1][-1] == pytest.approx(result["high"], rel=1e-5)
    assert answer["noise_level"] == 0.4
    assert story.retcon.json("trace", "show", answer["trace"]) == answer


def test_unknown_facts_are_skipped_with_a_reason(story: Story, known_facts: list[dict[str, Any]]) -> None:
    newest = story.retcon.json("trace", "list")["traces"][0]
    assert newest["facts"] == 2
    wrong, right = story.retcon.json("trace", "show", newest["trace"])["results"]
    assert known_facts[0]["target_true"] in wrong["skip_reason"] and "'Berlin'" in wrong["skip_reason"]
    assert (wrong["kinds"], right["skip_reason"]) == ({}, None)
    assert wrong["high"] > 0 and wrong["low"] is None
    # The text shows skipped facts with the reason, and the heat map of the traced fact.
    shown = story["mixed"]
    assert "1 facts traced, 1 skipped" in shown and "'Berlin'" in shown
    assert right["prompt"] in shown and "with attn restored, window 2" in shown
    assert "this fact has no mlp trace" in story.retcon.refused(
        "trace", "plot", newest["trace"], "--fact", 0, "--kind", "mlp"
    )
    assert "no fact 9" in story.retcon.refused("trace", "show", newest["trace"], "--fact", 9)


def test_locate_suggests_the_peak_layer(story: Story) -> None:
    for trace in (story["trace"]["trace"], story.retcon.json("trace", "list")["traces"][0]["trace"]):
        located = story.retcon.json("trace", "locate", trace)
        assert located["kind"] == "mlp"
        assert located["layers"] and set(located["layers"]) <= set(range(4))
        effects = [e for e in located["effects"] if (e["kind"], e["role"]) == ("mlp", "last subject")]
        means = {effect["layer"]: effect["mean"] for effect in effects}
        assert max(means, key=lambda layer: means[layer]) == located["layers"][0]
        assert f"Suggested layers: {located['layers'][0]}" in story.retcon("trace", "locate", trace)


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF-")])
@pytest.mark.parametrize("what", [["--kind", "attn"], ["--effects"]])
def test_plots_are_written_in_each_format(
    what: list[str], suffix: str, begin: bytes, story: Story, tmp_path: Path
) -> None:
    file = tmp_path / f"picture.{suffix}"
    story.retcon("trace", "plot", story["trace"]["trace"], *what, "--out", file)
    assert file.read_bytes().startswith(begin)
    assert file.stat().st_size > 2000


def test_plot_refuses_a_bad_path(story: Story, tmp_path: Path) -> None:
    trace = story["trace"]["trace"]
    for file in (tmp_path / "picture.docx", tmp_path / "nowhere" / "picture.png"):
        said = story.retcon.say("trace", "plot", trace, "--out", file)
        assert said.code in (1, 2)
        assert file.name in said.sentence or file.suffix in said.sentence
        assert not file.exists()


def test_covariances_record_texts_and_artifact(story: Story) -> None:
    made = story["covariances"]["covariances"]
    assert [one["layer"] for one in made] == [1, 2]
    for one in made:
        assert (one["tokens"], one["origin"], one["width"]) == (2500, {}, 56)
        assert one["texts"] == str(story.texts)
        assert one["texts_revision"] == hashlib.sha256(story.texts.read_bytes()).hexdigest()
        assert story.retcon.json("covariance", "show", one["covariance"]) == one
        artifact = story.retcon.home / "artifacts" / one["artifact"][:2] / one["artifact"]
        assert hashlib.sha256(artifact.read_bytes()).hexdigest() == one["artifact"]
    assert story.retcon.json("covariance", "list")["covariances"] == made
    assert "2,500" in story.retcon("covariance", "list")


def test_edit_json_describes_the_edit(story: Story) -> None:
    made = story["first"]
    (request,) = made["requests"]
    assert (request["subject"], request["prompt"]) == (SUBJECT, "The {} is located in the city of")
    assert (request["target_new"], request["target_true"]) == ("Rome", "Paris")
    assert (made["parent"], made["method"]) == (story["base"], "r-rome")
    assert (made["kind"], made["message"]) == ("edit", "first")
    assert made["covariances"] == [story["covariances"]["covariances"][1]["covariance"]]
    ((matrix, size),) = made["statistics"]["delta"].items()
    assert matrix == "model.layers.2.mlp.down_proj.weight"
    assert size["rank"] == 1 and size["norm"] > 0 and size["relative"] > 0 and size["effective"] > 0.9
    before, after = (made["statistics"]["requests"][0][when]["probability"] for when in ("before", "after"))
    # A random model gives random answers. Tests of the starter model check that edits succeed.
    assert 0 < before < 1 and 0 < after < 1 and after != before
    assert made["statistics"]["scores"]["probability"] == pytest.approx(after)


def test_edits_of_a_fact_set_and_with_an_hparams_file(story: Story) -> None:
    second, third = story["second"], story["third"]
    assert (second["method"], second["parent"], second["seed"]) == ("r-rome", story["first"]["id"], 3)
    assert [request["target_new"] for request in second["requests"]] == ["Rome", "Italy"]
    assert second["statistics"]["delta"]["model.layers.2.mlp.down_proj.weight"]["rank"] == 2
    assert (third["hparams"]["layers"], third["hparams"]["v_num_grad_steps"]) == ([1], 4)
    assert list(third["statistics"]["delta"]) == ["model.layers.1.mlp.down_proj.weight"]
    assert set(third["statistics"]["with_earlier_edits"]) == {
        f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 2)
    }


def test_history_lists_revisions_in_order(story: Story) -> None:
    answer = story.retcon.json("history", "tiny")
    assert (answer["model"], answer["head"]) == ("tiny", story["base"])
    ids = [story["base"], *(story[name]["id"] for name in ("first", "second", "third", "reverted"))]
    assert [revision["id"] for revision in answer["revisions"]] == ids
    assert [revision["parent"] for revision in answer["revisions"]] == [None, *ids[:-1]]
    for revision in answer["revisions"]:
        assert {"id", "parent", "method", "message", "created", "fingerprint"} <= set(revision)
    assert answer["revisions"][1] == story["first"]
    shown = story.retcon("history", "tiny")
    assert all(id in shown for id in ids) and "not that one" in shown


def test_evaluation_has_all_metrics(story: Story) -> None:
    made = story["eval"]
    assert made["revision"] == story["third"]["id"]
    assert made["protocol"]["facts"] == "edits" and made["protocol"]["max_new_tokens"] == 3
    assert set(made["metrics"]) == {
        *("S", "ES", "PS", "NS", "EM", "PM", "NM", "EA", "PA", "NA", "TE", "TP", "TN", "FE", "FP", "FN"),
        *("XA", "FX", "KN", "KG", "RA", "FR"),
    }
    for name, metric in made["metrics"].items():
        assert -1 <= metric["low"] <= metric["value"] <= metric["high"], name
        assert metric["high"] <= 1 or name in ("KN", "KG"), name
    assert len(made["cases"]) == 2
    assert story.retcon.json("eval", "show", made["evaluation"]) == made
    (listed,) = story.retcon.json("eval", "list")["evaluations"]
    assert listed["cases"] == 2
    assert "Protocol:" in story.retcon("eval", "show", made["evaluation"])


def test_ask_compares_revisions(story: Story) -> None:
    answer = story["ask"]
    assert set(answer) == {"prompt", "answers"}
    assert answer["prompt"] == PROMPT
    ids = [story[name]["id"] for name in ("third", "first")]
    assert [one["revision"] for one in answer["answers"]] == [ids[0], story["base"], ids[1]]
    for one in answer["answers"]:
        probabilities = [token["probability"] for token in one["next"]]
        assert len(probabilities) == 5 and probabilities == sorted(probabilities, reverse=True)
        assert one["completion"].split()[0] == one["next"][0]["token"].strip()
    assert answer["answers"][0]["next"] != answer["answers"][1]["next"]


def test_rollback_restores_base_bits(story: Story) -> None:
    model = story.retcon.json("model", "show", "tiny")
    answer = story["rollback"]
    assert (answer["head"], answer["previous_head"]) == (story["base"], story["reverted"]["id"])
    assert answer["verified"] is True
    assert answer["fingerprint"] == model["fingerprint"] == plain_fingerprint(Path(model["path"]), [])
    assert story["first"]["fingerprint"] != model["fingerprint"]


def test_revert_removes_one_delta_exactly(story: Story) -> None:
    """The weights equal the base plus the other two deltas, computed here independently."""
    path = Path(story.retcon.json("model", "show", "tiny")["path"])
    first, second, third = (
        story.retcon.home / "artifacts" / story[name]["delta"][:2] / story[name]["delta"]
        for name in ("first", "second", "third")
    )
    assert story["reverted"]["kind"] == "revert" and story["reverted"]["reverts"] == story["second"]["id"]
    assert story["reverted"]["fingerprint"] == plain_fingerprint(path, [first, third])
    assert story["second"]["fingerprint"] == plain_fingerprint(path, [first, second])


def plain_fingerprint(folder: Path, deltas: list[Path]) -> str:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    weights = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
    factors = [load_file(path) for path in deltas]
    for name in {key[:-2] for one in factors for key in one}:
        parts = [one for one in factors if f"{name}.A" in one]
        b = torch.cat([one[f"{name}.B"] for one in parts], dim=1)
        a = torch.cat([one[f"{name}.A"] for one in parts], dim=0)
        weights[name] = weights[name].detach() + b @ a
    digests = {name: hashlib.sha256(w.detach().numpy().tobytes()).hexdigest() for name, w in weights.items()}
    return hashlib.sha256("\n".join(f"{n} {d}" for n, d in sorted(digests.items())).encode()).hexdigest()


def test_diff_lists_the_different_edits(story: Story) -> None:
    third, reverted = story["third"]["id"], story["reverted"]["id"]
    answer = story.retcon.json("diff", f"tiny@{third}", f"tiny@{reverted}")
    assert [edit["id"] for edit in answer["only_a"]] == [story["second"]["id"]]
    assert (answer["only_b"], answer["same_weights"]) == ([], False)
    same = story.retcon.json("diff", "tiny", "tiny@base")
    assert (same["only_a"], same["only_b"], same["same_weights"]) == ([], [], True)
    assert "Italy" in story.retcon("diff", f"tiny@{third}", "tiny@base")


def test_transformers_alone_loads_the_export(story: Story) -> None:
    program = (
        "import sys, json, torch; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;"
        "m = M.from_pretrained(sys.argv[1]); t = T.from_pretrained(sys.argv[1]);"
        "p = m(torch.tensor([t(sys.argv[2])['input_ids']])).logits[0, -1].softmax(-1).topk(5);"
        "print(json.dumps([[t.decode([i]) for i in p.indices.tolist()], p.values.tolist()]))"
    )
    command = [sys.executable, "-c", program, story.exported, PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    tokens, values = json.loads(done.stdout)
    asked = story["ask"]["answers"][0]["next"]
    assert tokens == [token["token"] for token in asked]
    assert values == pytest.approx([token["probability"] for token in asked], rel=1e-5)
    assert story["export"]["fingerprint"] == story["third"]["fingerprint"]
    assert story["export"]["fingerprint"] == plain_fingerprint(story.exported, [])
    assert [path.name for path in story.exported.parent.iterdir()] == ["exported"]


def test_export_refuses_a_folder_with_files(story: Story, tmp_path: Path) -> None:
    retcon = story.retcon.copy(tmp_path / "home")
    kept = {path.name: path.stat().st_mtime_ns for path in story.exported.iterdir()}
    assert "not empty" in retcon.refused("export", "tiny", story.exported)
    assert {path.name: path.stat().st_mtime_ns for path in story.exported.iterdir()} == kept


def test_job_list_has_the_documented_fields(story: Story) -> None:
    jobs = story.retcon.json("job", "list")["jobs"]
    assert [job["id"] for job in jobs] == sorted((job["id"] for job in jobs), reverse=True)
    by_kind = {job["kind"]: job for job in jobs}
    promised = {"id", "kind", "state", "pid", "device", "done", "total", "rate", "seconds_left", "error"}
    for job in jobs:
        assert promised <= set(job)
        assert (job["state"], job["error"], job["device"]) == ("done", None, "cpu")
    assert by_kind["trace"]["trace"] == story["trace"]["trace"]
    assert by_kind["covariance"]["covariance"] == story["covariances"]["covariances"][0]["covariance"]
    assert by_kind["edit"]["revision"] == story["first"]["id"]
    assert by_kind["evaluation"]["evaluation"] == story["eval"]["evaluation"]
    done = by_kind["edit"]["id"]
    assert story.retcon.job(done) == by_kind["edit"]
    assert story.retcon.json("job", "watch", done) == by_kind["edit"]
    assert f"revision {story['first']['id']}" in story.retcon("job", "list", "--all")
    assert "Traceback" not in story.retcon("job", "log", done)


def test_removing_a_job_keeps_its_results(story: Story, tmp_path: Path) -> None:
    retcon = story.retcon.copy(tmp_path / "home")
    rows = retcon.rows()
    retcon("job", "remove", 2)
    assert "no job 2" in retcon.refused("job", "show", 2)
    assert not (retcon.home / "logs" / "job-2.log").exists()
    assert retcon.rows() == rows


def test_removing_a_model_removes_its_rows(story: Story, tiny_folder: Path, tmp_path: Path) -> None:
    retcon = story.retcon.copy(tmp_path / "home")
    retcon("model", "remove", "tiny", "--yes")
    left = {table for table, rows in retcon.rows().items() if rows}
    assert left <= {"alembic_version", "app_version", "artifact", "fact", "fact_set"}
    assert (tiny_folder / "model.safetensors").is_file(), "the user's own folder is kept"
    assert retcon.json("model", "list") == {"models": []}


WORDS = (
    "history tiny",
    "diff tiny@base tiny@{third}",
    "job list",
    "job show {job}",
    "facts show evil",
    "facts list",
)


@pytest.mark.parametrize("words", [line.split() for line in WORDS], ids=" ".join)
def test_control_characters_are_not_printed(words: list[str], story: Story, tmp_path: Path) -> None:
    """Subjects, prompts and messages contain escape sequences and markup. Each call checks its output."""
    retcon = story.retcon.copy(tmp_path / "home")
    evil = [{"subject": EVIL, "prompt": f"{EVIL}\n is", "target_true": "\x1b[2J"}]
    retcon("facts", "import", write_facts(tmp_path / "evil.json", evil), "--name", "evil")
    edits = [job for job in retcon.json("job", "list")["jobs"] if job["kind"] == "edit"]
    edit = next(job for job in edits if job["revision"] == story["third"]["id"])
    out = retcon(*(word.format(third=story["third"]["id"], job=edit["id"]) for word in words))
    if words != ["facts", "list"]:
        # Markup is printed as text.
        assert "[31m[bold]Tower[/bold]" in out or words == ["job", "list"]


def test_home_contains_no_secret(story: Story) -> None:
    for path in story.retcon.home.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_home_is_readable_only_by_the_user(story: Story) -> None:
    for path in (story.retcon.home, *story.retcon.home.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_json_numbers_are_finite(story: Story) -> None:
    def walk(value: Any, check: Callable[[float], bool]) -> bool:
        if isinstance(value, dict):
            return all(walk(one, check) for one in value.values())
        if isinstance(value, list):
            return all(walk(one, check) for one in value)
        return not isinstance(value, float) or check(value)

    assert all(walk(answer, math.isfinite) for answer in story.said.values())
