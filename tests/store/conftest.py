"""Fixtures of the store's tests: an empty home, a catalog in it, and an unsaved model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Model
from retcon.store.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    opened = Catalog.open(home)
    yield opened
    opened.close()


@pytest.fixture
def model() -> Model:
    """An unsaved model."""
    return Model(
        name="tiny",
        source="starter",
        source_kind="starter",
        path="/models/tiny",
        architecture="LlamaForCausalLM",
        dtype="float32",
        parameters=10,
        size=40,
        fingerprint="f0",
    )
