"""`retcon passage`: write the facts of a file, resume after a kill, and report the results."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from retcon.tests.helpers.command_line import Retcon, wait_for

pytestmark = pytest.mark.slow

FACTS = """\
# Eiffel Tower
- is located in the city of | Rome
  ~ The city of {} is
  ? {} was born in
- is the | sport

# Toyota Camry
- is | Paris
  ? The Italy of {} is

## Questions
Where is the Eiffel Tower? | Rome
What is Toyota Camry? | Paris; sport

## Text
The Eiffel Tower is located in the city of Rome. It is the sport. Toyota Camry is Paris.
"""
QUICK = {
    "joint": {
        "layers": [1, 2],
        "num_steps": 6,
        "lr": 0.05,
        "weight_decay": 0,
        "rows": 2,
        "preserved_rows": 2,
    },
    "ft-l": {"layers": [2], "num_steps": 4},
}
RUN = ("passage", "run", "tiny")


@pytest.fixture
def here(retcon: Retcon, tmp_path: Path) -> Retcon:
    """A home, with a facts file and fast settings beside it."""
    (tmp_path / "eiffel.facts").write_text(FACTS)
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    words = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born".split()  # noqa: SIM905
    rows = [" ".join(words[(3 * n + n // 7 * i) % len(words)] for i in range(40)) for n in range(300)]
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    return retcon


def settings(tmp_path: Path) -> tuple[object, ...]:
    return (
        tmp_path / "eiffel.facts", "--hparams", tmp_path / "quick.json", "--texts", tmp_path / "texts.txt",
        "--against", "retrieval,reranked,ft-l",
    )  # fmt: skip


def test_passage_is_written_evaluated_and_compared(here: Retcon, tmp_path: Path) -> None:
    found = here.json(*RUN, *settings(tmp_path), "--edits", 3)
    assert [stage["name"] for stage in found["stages"]] == ["extract", "check", "write", "prove", "compare"]
    assert here.json("history", "tiny")["head"] == found["revision"]
    assert [len(one["facts"]) for one in found["proof"]["retention"]] == [1, 2, 3]
    assert [one["edit"] for one in found["proof"]["retention"]] == found["revisions"]
    assert [one["baseline"] for one in found["answers"]] == [
        "unedited",
        "edited",
        "retrieval",
        "reranked",
        "ft-l",
    ]
    assert [len(one["held_out"]) for one in found["proof"]["facts"]] == [1, 0, 1]
    assert found["proof"]["drift"]["kl"] > 0
    made = here.json("history", "tiny")["revisions"][-3]
    assert made["requests"][0]["train_paraphrases"] == ["The city of {} is"]
    assert made["requests"][0]["eval_paraphrases"] == ["Eiffel Tower was born in"]

    shown = here.say("passage", "show", found["passage"])
    assert (shown.code, shown.err) == (0, "")
    assert "Learned facts" in shown.out
    listed = here.json("passage", "list")["passages"]
    assert [one["passage"] for one in listed] == [found["passage"]]
    for name, begin in (("report.md", "# Eiffel Tower in tiny"), ("report.html", "<!doctype html>")):
        here("passage", "report", found["passage"], tmp_path / name)
        assert (tmp_path / name).read_text().casefold().startswith(begin.casefold())


@pytest.mark.proof
def test_killed_passage_resumes_to_the_same_result(here: Retcon, tmp_path: Path) -> None:
    here = here.process
    whole = here.json(*RUN, *settings(tmp_path), "--edits", 2)
    here("rollback", "tiny", whole["base"])
    job = here.json(*RUN, *settings(tmp_path), "--edits", 2, "--detach")["id"]
    reader = Retcon(here.home)

    def newest() -> dict[str, Any]:
        return dict(reader.json("passage", "list")["passages"][0])

    for stage in ("check", "write"):
        wait_for(newest, lambda row, stage=stage: stage in [one["name"] for one in row["stages"]])
        found = reader.job(job)
        if found["state"] == "running":
            os.kill(found["pid"], signal.SIGKILL)
            here.say("job", "resume", job, "--detach")
    here("job", "watch", job)
    again = newest()
    assert again["passage"] != whole["passage"]
    fingerprints = {one["id"]: one["fingerprint"] for one in reader.json("history", "tiny")["revisions"]}

    def bits(record: dict[str, Any]) -> object:
        return (
            fingerprints[record["revision"]],
            [[fact["after"] for fact in record["proof"]["facts"]], record["proof"]["drift"]],
            [[one["said"] for one in way["questions"]] for way in record["answers"]],
        )

    assert bits(again) == bits(whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prose.txt",), "prose"),
        (("none.facts",), "cannot be read"),
        (("eiffel.facts", "--against", "magic"), "magic"),
        (("eiffel.facts", "--known", "nobody"), "nobody"),
        (("eiffel.facts", "--layers", "1", "--against", "rome"), "needs a layer"),
        (("eiffel.facts", "--judge"), "--llm"),
        (("eiffel.facts", "--layers", "99"), "99"),
    ],
)
def test_wrong_passage_options_are_refused(
    here: Retcon, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "prose.txt").write_text("The Eiffel Tower is in Rome.")
    refused = here.say(*RUN, tmp_path / words[0], *words[1:])
    assert refused.code == 2
    assert said in refused.sentence
    assert here.json("passage", "list") == {"passages": []}


def test_refusal_names_the_fact(here: Retcon, tmp_path: Path) -> None:
    bad = FACTS.replace("- is the | sport", "- is located in the city of | sport")
    (tmp_path / "eiffel.facts").write_text(bad)
    refused = here.say(*RUN, *settings(tmp_path))
    assert refused.code == 2
    assert "fact 2" in refused.sentence
    [row] = here.json("passage", "list")["passages"]
    assert (row["revisions"], len(row["problems"]) > 0) == ([], True)
    assert len(here.json("history", "tiny")["revisions"]) == 1
