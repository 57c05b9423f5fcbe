"""Facts from prose through an endpoint into a model: the job pauses for a review, and resumes with the edited facts."""

import json
from pathlib import Path

import pytest

from retcon.tests.helpers.command_line import Retcon
from retcon.tests.helpers.llm_rule import TEXT, rule
from retcon.tests.helpers.stand_in_llm import KEY, MODEL, StandInEndpoint

pytestmark = pytest.mark.slow

FACTS = "# Eiffel Tower\n- is located in the city of | Rome\n  ~ The city of {} is\n"
QUICK = {"joint": {"layers": [1], "num_steps": 3, "rows": 1, "preserved_rows": 1}}


def test_job_pauses_for_review_and_resumes(served: StandInEndpoint, retcon: Retcon, tmp_path: Path) -> None:
    served.rule = rule
    secrets = {"RETCON_LLM_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    (tmp_path / "marta.txt").write_text(TEXT)
    (tmp_path / "mine.facts").write_text(FACTS)
    (tmp_path / "quick.json").write_text(json.dumps(QUICK))
    words = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born".split()  # noqa: SIM905
    rows = [" ".join(words[(3 * n + n // 7 * i) % len(words)] for i in range(40)) for n in range(300)]
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    run = retcon.say(
        "passage", "run", "tiny", tmp_path / "marta.txt", "--title", "Marta", "--llm", "endpoint", "--llm-url",
        served.url, "--llm-model", MODEL, "--hparams", tmp_path / "quick.json", "--texts", tmp_path / "texts.txt",
        **secrets,
    )  # fmt: skip
    assert run.code == 0, run.err
    assert "retcon passage review 1" in run.err
    requests = len(served.requests)
    job = retcon.json("job", "list")["jobs"][0]
    assert (job["kind"], job["state"]) == ("passage", "paused")
    shown = retcon.say("passage", "review", 1, "--show").out
    assert "# Marta Lindqvist" in shown and "- is | a cellist" in shown
    assert "! error: " in shown or "! warning: " in shown, "the problems of a fact follow it"
    assert len(retcon.json("history", "tiny")["revisions"]) == 1, "nothing is written before the review"

    resumed = retcon.say("passage", "review", 1, "--facts", tmp_path / "mine.facts", "--json", **secrets)
    assert resumed.code == 0, resumed.err
    record = json.loads(resumed.out)
    assert [fact["object"] for fact in record["facts"]] == ["Rome"]
    assert [stage["name"] for stage in record["stages"]] == ["extract", "check", "write", "prove", "compare"]
    assert record["stages"][0]["tokens"] > 0
    assert len(served.requests) == requests, "cached replies are not requested again"
    again = retcon.say("passage", "review", 1, "--facts", tmp_path / "mine.facts")
    assert again.code == 2
    assert "its job is done" in again.err, "collecting the covariance has not deleted the checkpoint"
    for file in retcon.home.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), f"the key is in {file}"
