"""A process that keeps a model warm: it answers as `ask` does, loads once, says what is wrong, and ends."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from retcon.engine.jobs.prompting.client import PromptClient, PromptRequest
from retcon.store.home import Home

pytestmark = pytest.mark.slow


def test_it_answers_twice_and_loads_once(template_home: Path, tmp_path: Path) -> None:
    from retcon.tests.helpers.command_line import Retcon

    home = tmp_path / "home"
    shutil.copytree(template_home, home)
    prompt = "The Eiffel Tower is located in the city of"
    said_before: dict[str, Any] = Retcon(home).json("ask", "tiny", prompt, "--against", "base")
    warm = PromptClient(Home(home), "tiny", "cpu")
    try:
        first = list(warm.send(PromptRequest(prompt, ["head", "base"], tokens=20)))
        second = list(warm.send(PromptRequest(prompt, ["base"], tokens=20)))
        wrong = list(warm.send(PromptRequest(prompt, ["nowhere"])))
        again = list(warm.send(PromptRequest(prompt, ["base"], tokens=3, top=2)))
    finally:
        warm.close()
    assert {"state": "loading tiny"} in first
    assert not any("state" in said for said in second)
    told = said_before["answers"][0]
    (found,) = [said["next"] for said in second if "next" in said]
    assert [token for token, _ in found] == [one["token"] for one in told["next"]]
    assert found[0][1] == pytest.approx(told["next"][0]["probability"], rel=1e-5)
    assert "".join(said["piece"] for said in second if "piece" in said) == told["completion"]
    assert "has no revision 'nowhere'" in wrong[-1]["error"]
    assert sum("piece" in said for said in again) <= 3
    assert len(again[0]["next"]) == 2
    assert not warm.is_alive
    assert "error" in next(iter(warm.send(PromptRequest(prompt, ["base"]))))
