"""Fixtures for publishing: a stand-in hub, and a home whose tiny model has edits."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from retcon.engine.jobs.runs import publish
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home
from retcon.tests.helpers.command_line import FIELD, Retcon, write_facts
from retcon.tests.helpers.hub_client import PROMPT, SUBJECT, Client, running_of, spec_of
from retcon.tests.helpers.hub_stand_in import StandIn, stand_in
from retcon.tests.helpers.hub_state import TOKEN


@pytest.fixture(scope="session")
def edited_home(
    template_home: Path, known_facts: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model with two edits, evaluated before and after, and a trace of the first."""
    folder = tmp_path_factory.mktemp("edited")
    retcon = Retcon(template_home).copy(folder / "home")
    hparams = folder / "hparams.json"
    hparams.write_text(json.dumps(FIELD | {"layers": [1]}))
    neighbors = [{"prompt": "The Berlin is located in the city of", "true": "you"}]
    fact = known_facts[5] | {"target_new": "Rome", "neighbors": neighbors}
    retcon("facts", "import", write_facts(folder / "facts.json", [fact]), "--name", "one")
    one = ("--prompt", PROMPT, "--subject", SUBJECT)
    retcon("trace", "run", "tiny", *one, "--noise", "0.4", "--samples", 2, "--kinds", "mlp")
    retcon("edit", "run", "tiny", *one, "--target", "Rome", "--hparams", hparams, "-m", "the tower")
    retcon("edit", "run", "tiny", "--facts", "one", "--hparams", hparams, "-m", "a | second <b>one</b>")
    retcon("eval", "run", "tiny", "--facts", "one", "--suite", "quick")
    retcon("eval", "run", "tiny@base", "--facts", "one", "--suite", "quick")
    return retcon.home


@pytest.fixture(scope="session")
def ready_home(edited_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The edited home, with the head and its parent in the outbox in both forms, as a killed job leaves it."""
    home = Home(tmp_path_factory.mktemp("ready") / "home")
    shutil.copytree(edited_home, home.root)
    catalog = Catalog.open(home)
    home.outbox.mkdir(exist_ok=True)
    for what in ("adapter", "checkpoint"):
        for revision in ("head", "head~1"):
            spec = spec_of(catalog, revision, what)
            publish.prepare(
                running_of(catalog, spec), spec, "me/x", home.outbox / f"{spec.revision}-{what}", []
            )
    catalog.close()
    return home.root


@pytest.fixture
def fresh(tmp_path: Path) -> Retcon:
    """The command line on a new home, in processes: the client reads HF_ENDPOINT at import."""
    return Retcon(tmp_path / "fresh").process


@pytest.fixture
def edited(edited_home: Path, tmp_path: Path) -> Retcon:
    """The command line on a copy of the edited home."""
    return Retcon(edited_home).copy(tmp_path / "home").process


@pytest.fixture
def ready(ready_home: Path, tmp_path: Path) -> Retcon:
    """The command line on a copy of the home whose head only needs the upload."""
    return Retcon(ready_home).copy(tmp_path / "home").process


@pytest.fixture
def hub() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


@pytest.fixture
def client(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client with the marked token and a separate cache, and without xet unless a test enables it."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(constants, name, getattr(constants, name))  # monkeypatch restores them
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    client = Client(hub)
    client.use(hub)
    return client


@pytest.fixture
def online(ready: Retcon, hub: StandIn) -> Callable[..., Any]:
    """Runs `retcon ... --json` on the ready home, with the stand-in hub and the marked token."""

    def run(*words: object, **environment: str) -> Any:
        return ready.json(*words, **{"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN} | environment)

    return run
