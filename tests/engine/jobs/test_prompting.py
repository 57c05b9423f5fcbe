"""The prompt server: completions as `ask`, one load, errors, and its end."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from retcon.engine.jobs.prompting.client import PromptClient, PromptRequest
from retcon.store.home import Home

pytestmark = pytest.mark.slow


def test_two_requests_load_the_model_once(template_home: Path, tmp_path: Path) -> None:
    from retcon.tests.helpers.command_line import Retcon

    home = tmp_path / "home"
    shutil.copytree(template_home, home)
    prompt = "The Eiffel Tower is located in the city of"
    expected: dict[str, Any] = Retcon(home).json("ask", "tiny", prompt, "--against", "base")
    client = PromptClient(Home(home), "tiny", "cpu")
    try:
        first = list(client.send(PromptRequest(prompt, ["head", "base"], tokens=20)))
        second = list(client.send(PromptRequest(prompt, ["base"], tokens=20)))
        refused = list(client.send(PromptRequest(prompt, ["nowhere"])))
        short = list(client.send(PromptRequest(prompt, ["base"], tokens=3, top=2)))
    finally:
        client.close()
    assert {"state": "loading tiny"} in first
    assert not any("state" in message for message in second)
    answer = expected["answers"][0]
    (found,) = [message["next"] for message in second if "next" in message]
    assert [token for token, _ in found] == [one["token"] for one in answer["next"]]
    assert found[0][1] == pytest.approx(answer["next"][0]["probability"], rel=1e-5)
    assert "".join(message["piece"] for message in second if "piece" in message) == answer["completion"]
    assert "has no revision 'nowhere'" in refused[-1]["error"]
    assert sum("piece" in message for message in short) <= 3
    assert len(short[0]["next"]) == 2
    assert not client.is_alive
    assert "error" in next(iter(client.send(PromptRequest(prompt, ["base"]))))
