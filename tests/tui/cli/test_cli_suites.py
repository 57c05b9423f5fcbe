"""Evaluation suites on the command line: comparisons on the same requests, and a kill during an evaluation."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import Retcon, wait_for, write_facts

pytestmark = pytest.mark.slow

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"


@dataclass
class Story:
    """Two edits and their evaluations: the JSON results of the commands."""

    retcon: Retcon
    said: dict[str, Any]


@pytest.fixture(scope="module")
def story(template_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("suites")
    retcon = Retcon(template_home).copy(folder / "home")
    words = [*PROMPT.split(), "Paris", "Rome", "Berlin", "France", "Italy", "born", "he", "she", "plays"]
    texts = folder / "texts.txt"
    texts.write_text(
        "\n".join(" ".join(words[(3 * n + i) % len(words)] for i in range(30)) for n in range(120))
    )
    facts = [
        {
            "subject": "Toyota Camry",
            "prompt": "{} is produced by",
            "target_new": "Italy",
            "target_true": "Toyota",
            "paraphrases": ["Who plays the Toyota Camry"],
            "neighbors": [{"prompt": "The Berlin is located in", "true": "France"}],
            "portability": [{"prompt": "The city of the Toyota Camry is", "answers": ["Rome", "Italy"]}],
            "generation_prompts": ["The Toyota Camry"],
            "references": [{"name": "Toyota Camry", "text": "The Toyota Camry is born in Italy ."}],
        }
    ]
    retcon("facts", "import", write_facts(folder / "facts.json", facts), "--name", "rich")
    said: dict[str, Any] = {"base": retcon.json("history", "tiny")["head"]}
    retcon("covariance", "run", "tiny", "--layers", "2", "--texts", texts, "--max-tokens", 2500)
    settings = ("--method", "rome", "--layer", 2)
    said["first"] = retcon.json(
        "edit",
        "run",
        "tiny",
        "--prompt",
        PROMPT,
        "--subject",
        SUBJECT,
        "--target",
        "Rome",
        "--true",
        "Paris",
        *settings,
    )["id"]
    said["second"] = retcon.json("edit", "run", "tiny", "--facts", "rich", *settings)["id"]
    short = ("--max-new-tokens", 3)
    said["own"] = retcon.json("eval", "run", "tiny", *short)
    said["before"] = retcon.json("eval", "run", "tiny@base", "--requests-of", "head", *short)
    said["between"] = retcon.json("eval", "run", f"tiny@{said['first']}", "--requests-of", "head", *short)
    said["quick"] = retcon.json("eval", "run", "tiny", "--facts", "rich", "--suite", "quick")
    said["full"] = retcon.json("eval", "run", "tiny", "--facts", "rich", "--suite", "full", *short)
    return Story(Retcon(retcon.home), said)


def test_suites_have_their_metrics(story: Story) -> None:
    teacher_forced = {"S", "ES", "PS", "NS", "EM", "PM", "NM", "EA", "PA", "NA", "TE", "TP", "TN"}
    asked = {"HA", "TH", "XA"}
    assert set(story.said["quick"]["metrics"]) == teacher_forced | asked
    free = {"FE", "FP", "FN", "FX", "KN", "KG", "RA", "FR"}
    assert set(story.said["own"]["metrics"]) == teacher_forced | asked | free | {"FH"}
    longer = {"FH", "GE", "RS", "ESS", "PPL", "PD"}
    assert set(story.said["full"]["metrics"]) == teacher_forced | asked | free | longer
    at_base = set(story.said["before"]["metrics"])
    assert at_base == teacher_forced | asked | {"FE", "FP", "FN", "FX", "FH"}


def test_retention_matches_the_evaluation(story: Story) -> None:
    own, first = story.said["own"], story.said["first"]
    (row,) = own["retention"]
    assert row["edit"] == first and row["requests"] == 1
    assert own["metrics"]["RA"]["value"] == row["first_choice"]
    assert own["metrics"]["FR"]["value"] == row["free"]
    # The first edit is also the first case of the evaluation, so both must agree.
    assert own["cases"][0]["case"]["prompt"] == PROMPT
    assert own["cases"][0]["metrics"]["EA"] == row["first_choice"]
    assert story.said["between"]["retention"] == [], "nothing is earlier than the first edit"
    assert first in story.retcon("eval", "show", own["evaluation"])


def test_protocol_has_all_settings(story: Story) -> None:
    full = story.said["full"]["protocol"]
    for field in ("teacher_forced", "free_generation", "negation", "KL", "GE", "RS", "ESS", "perplexity", "retention",
                  "texts", "texts_sha256", "interval", "seed", "cases", "cases_sha256", "dtype"):  # fmt: skip
        assert field in full
    assert full["suite"] == "full" and full["facts"] == "rich"
    assert "chat" not in full, "this model has no chat template"
    assert not {"GE", "KL", "retention", "texts"} & set(story.said["quick"]["protocol"])


def test_compare_before_and_after_on_the_same_requests(story: Story) -> None:
    before, own = story.said["before"], story.said["own"]
    ids = (before["evaluation"], own["evaluation"])
    found = story.retcon.json("eval", "compare", *ids)
    assert (found["a"]["of"], found["b"]["of"]) == (f"tiny@{story.said['base']}", f"tiny@{own['revision']}")
    for name, change in found["metrics"].items():
        assert change["a"] == pytest.approx(before["metrics"][name]["value"])
        assert change["b"] == pytest.approx(own["metrics"][name]["value"])
        assert change["difference"] == pytest.approx(change["b"] - change["a"])
        assert change["low"] <= change["difference"] <= change["high"]
    assert set(found["metrics"]) == set(before["metrics"])
    assert found["metrics"]["ES"]["count"] == 2 and found["metrics"]["PS"]["count"] == 1
    told = story.retcon("eval", "compare", *ids)
    assert "efficacy: new target likelier than true" in told and "higher" in told


def test_quick_and_full_agree_on_common_metrics(story: Story) -> None:
    ids = (story.said["quick"]["evaluation"], story.said["full"]["evaluation"])
    changes = story.retcon.json("eval", "compare", *ids)["metrics"]
    assert "FE" not in changes and "GE" not in changes
    # The differences are zero because both run the same case in the same batches.
    assert all(change["difference"] == 0 for change in changes.values())


def test_compare_refuses_different_protocols(story: Story) -> None:
    own, full = story.said["own"]["evaluation"], story.said["full"]["evaluation"]
    sentence = story.retcon.refused("eval", "compare", own, full)
    assert f"evaluations {own} and {full} cannot be compared" in sentence
    assert "cases (2 vs. 1)" in sentence and "cases_sha256" in sentence
    assert "evaluation 99 does not exist" in story.retcon.refused("eval", "compare", own, 99)


def test_wrong_options_are_refused(story: Story) -> None:
    refused = story.retcon.refused
    assert "not both" in refused("eval", "run", "tiny", "--facts", "rich", "--requests-of", "head")
    assert "no revision 'nope'" in refused("eval", "run", "tiny", "--requests-of", "nope")
    assert "'all' is not one of" in refused("eval", "run", "tiny", "--suite", "all")


def test_job_refuses_wrong_input(story: Story, tmp_path: Path) -> None:
    retcon = Retcon(story.retcon.home).copy(tmp_path / "home").process
    assert "the text file ./none.txt does not exist" in retcon.refused(
        "eval", "run", "tiny", "--texts", "./none.txt"
    )
    assert "has no edits, so there are no requests to evaluate" in retcon.refused("eval", "run", "tiny@base")


def test_metrics_are_explained(story: Story) -> None:
    table = story.retcon.json("eval", "metrics")["metrics"]
    assert set(story.said["full"]["metrics"]) <= set(table)
    assert table["XA"]["better"] == "lower"
    assert "portability" in story.retcon("eval", "metrics")


@pytest.mark.proof
def test_killed_evaluation_resumes_to_the_same_result(
    story: Story, known_facts: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Killed after the first block and resumed: the same numbers, and the first block does not run again."""
    retcon = Retcon(story.retcon.home).copy(tmp_path / "home").process
    facts = [
        known | {"target_new": "Rome", "paraphrases": ["The city of Rome is"] * 4} for known in known_facts
    ]
    many = [dict(fact) for _ in range(6) for fact in facts]
    retcon("facts", "import", write_facts(tmp_path / "many.json", many), "--name", "many")
    words = ("eval", "run", "tiny", "--facts", "many", "--max-new-tokens", 12)
    id = int(retcon("eval", "run", "tiny", *words[3:], "--detach"))
    kept = retcon.home / "logs" / f"job-{id}.kept.jsonl"
    wait_for(lambda: kept.is_file() and kept.read_bytes().count(b"\n") >= 16, bool)
    os.kill(retcon.job(id)["pid"], signal.SIGKILL)
    wait_for(lambda: retcon.job(id), lambda job: job["state"] in ("interrupted", "done"))
    assert retcon.job(id)["state"] == "interrupted", "it was killed before its end"
    before = kept.read_bytes()
    with kept.open("ab") as file:
        file.write(b'{"half": ')  # a partial write before the kill
    retcon("job", "resume", id)
    log = wait_for(lambda: retcon.job(id), lambda job: job["state"] == "done")
    assert not kept.exists()
    resumed = retcon.json("eval", "show", log["evaluation"])
    whole = retcon.json(*words)
    assert resumed["metrics"] == whole["metrics"] and resumed["cases"] == whole["cases"]
    first = [json.loads(line) for line in before.splitlines()]
    assert resumed["cases"][: len(first)] == first and len(first) < len(many)


def test_removing_a_job_removes_its_checkpoint(story: Story, tmp_path: Path) -> None:
    retcon = story.retcon.copy(tmp_path / "home")
    job = retcon.json("job", "list")["jobs"][0]["id"]
    kept = retcon.home / "logs" / f"job-{job}.kept.jsonl"
    kept.write_text("{}")
    retcon("job", "remove", job)
    assert not list(retcon.home.glob(f"logs/job-{job}.*"))


def test_facts_are_imported_from_a_data_set(retcon: Retcon, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    record = {"subject": "Rome", "prompt": "{} is in", "target_new": "Italy"}
    (folder / "train.jsonl").write_text(json.dumps(record) + "\n")
    assert retcon.json("facts", "import", f"hub:{folder}", "--name", "set")["count"] == 1
    (listed,) = (one for one in retcon.json("facts", "list")["sets"] if one["name"] == "set")
    assert listed["source"] == f"hub:{folder}"
    unreached = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    sentence = retcon.refused("facts", "import", "hub:a/b", "--name", "other", **unreached)
    assert "the data set 'hub:a/b' cannot be opened" in sentence
    snippets = tmp_path / "snippets.json"
    snippets.write_text("[]")
    words = ("facts", "import", f"hub:{folder}", "--name", "other", "--references", snippets)
    assert "has no text for any fact" in retcon.refused(*words)
