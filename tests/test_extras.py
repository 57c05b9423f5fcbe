"""Optional dependencies: a missing extra gives one sentence and exit code 2 before a job is submitted."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

from retcon.errors import InputError
from retcon.extras import DISTRIBUTION, EXTRAS, require_extra
from retcon.tests.helpers.command_line import Retcon

ROOT = Path(__file__).parents[1]


@pytest.fixture
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages of all extras."""
    find_spec = importlib.util.find_spec
    hidden = {name for packages, _ in EXTRAS.values() for name in packages}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find_spec(name))


@pytest.mark.parametrize("extra", EXTRAS)
def test_missing_extra_names_the_install_command(extra: str, without_extras: None) -> None:
    with pytest.raises(
        InputError, match=rf"needs the extra '{extra}': pip install '{DISTRIBUTION}\[{extra}\]'"
    ):
        require_extra(extra)


@pytest.mark.parametrize("extra", EXTRAS)
def test_installed_extra_passes(extra: str) -> None:
    require_extra(extra)


def test_extras_match_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    optional = project["optional-dependencies"]
    assert {*EXTRAS, "dev"} == set(optional)
    for extra, (packages, _) in EXTRAS.items():
        requirements = {line.partition(">")[0].replace("-", "_") for line in optional[extra]}
        assert requirements == set(packages)
    assert f"{DISTRIBUTION}[{','.join(sorted(EXTRAS))}]" in optional["dev"]


@pytest.mark.parametrize(
    ("options", "feature"),
    [
        (("prose.txt", "--llm", "endpoint"), "--llm"),
        (("eiffel.facts", "--against", "prompt", "--llm", "endpoint", "--judge"), "--llm"),
        (("eiffel.facts",), "--against retrieval"),
        (("eiffel.facts", "--against", "reranked"), "--against reranked"),
    ],
)
def test_passage_run_checks_the_extra_first(
    retcon: Retcon, tmp_path: Path, without_extras: None, options: tuple[str, ...], feature: str
) -> None:
    (tmp_path / "prose.txt").write_text("The Eiffel Tower is in Rome.")
    (tmp_path / "eiffel.facts").write_text("# The Eiffel Tower\n- is in | Rome\n")
    here = Retcon(retcon.home)
    said = here.say("passage", "run", "tiny", tmp_path / options[0], *options[1:])
    assert said.code == 2
    assert (
        said.sentence == f"Error: {feature} needs the extra 'extract': pip install '{DISTRIBUTION}[extract]'"
    )
    assert not any(job["kind"] == "passage" for job in here.json("job", "list")["jobs"])
