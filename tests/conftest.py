"""Fixtures of all tests: a tiny model, homes that contain it, and the command line on them.

Helpers that tests import are in `tests/helpers/`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before torch is imported. The processes that tests start have one thread as well, so that all compute the same bits.
os.environ["OMP_NUM_THREADS"] = "1"


from retcon.tests.helpers.command_line import FIELD, Retcon, write_facts

# Property tests try few inputs, the same ones every time; HYPOTHESIS_PROFILE=many tries 10,000 new ones of each.
settings.register_profile("few", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("many", max_examples=10_000, deadline=None)
settings.register_profile("proof", max_examples=720, deadline=None)  # 14 importers: 10,000 broken inputs
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

MODEL = "tiny"
PLACES = [
    "Eiffel Tower",
    "Tower",
    "city",
    "Camry",
    "Toyota",
    "Paris",
    "Rome",
    "Berlin",
    "France",
    "Italy",
    "football",
]
TEMPLATES = ["The {} is located in the city of", "The mother tongue of {} is", "{} was born in"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow files first: with two workers the last to finish is then a short one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use a folder of device locks for this run, so that other jobs of the machine do not block the tests."""
    os.environ["RETCON_LOCKS"] = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama with four layers and a word tokenizer. Read only."""
    from retcon.tests.helpers.families import tiny_model
    from retcon.tests.helpers.tiny_tokenizers import word_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama").save_pretrained(folder)
    word_tokenizer(start=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def known_facts(tiny_folder: Path) -> list[dict[str, Any]]:
    """Facts of the tiny model: the true target is its first choice."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        AutoTokenizer.from_pretrained(tiny_folder),
    )
    facts = []
    for template in TEMPLATES:
        for subject in PLACES:
            ids = torch.tensor([tokenizer(template.format(subject))["input_ids"]])
            with torch.no_grad():
                answer = tokenizer.decode([int(model(ids).logits[0, -1].argmax())]).strip()
            if answer.isalnum():
                facts.append({"subject": subject, "prompt": template, "target_true": answer})
    assert len(facts) > 12, "the random model says too few words"
    return facts


@pytest.fixture(scope="session")
def template_home(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, known_facts: list[dict[str, Any]]
) -> Path:
    """A home with the tiny model and the sets `known` (12 facts) and `mixed` (a wrong one, then a right one)."""
    folder = tmp_path_factory.mktemp("template")
    retcon = Retcon(folder / "home")
    retcon.json("model", "add", tiny_folder, "--name", MODEL)
    retcon("facts", "import", write_facts(folder / "known.json", known_facts[:12]), "--name", "known")
    wrong = known_facts[0] | {"target_true": "Berlin"}
    assert wrong != known_facts[0]
    retcon("facts", "import", write_facts(folder / "mixed.json", [wrong, known_facts[1]]), "--name", "mixed")
    return retcon.home


@pytest.fixture
def retcon(template_home: Path, tmp_path: Path) -> Retcon:
    """The command line on a new home with the tiny model."""
    return Retcon(template_home).copy(tmp_path / "home")


@pytest.fixture
def fresh(tmp_path: Path) -> Retcon:
    """The command line on a home that does not exist yet."""
    return Retcon(tmp_path / "fresh")


@pytest.fixture
def broken_model(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, for damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "broken"))


@pytest.fixture
def hparams_file(tmp_path: Path) -> Path:
    """Settings for the tiny model as published flat JSON."""
    path = tmp_path / "hparams.json"
    path.write_text(json.dumps(FIELD | {"layers": [1]}))
    return path
