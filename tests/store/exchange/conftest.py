"""A valid bundle and a catalog with the same model, to import broken copies into."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.exchange import bundle as bundles
from retcon.tests.helpers.bundle_catalog import Members, fill, with_model


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of a valid bundle."""
    folder = tmp_path_factory.mktemp("source")
    catalog = with_model(folder / "home")
    fill(catalog)
    bundles.export_history(catalog, "tiny", folder / "bundle")
    catalog.close()
    with zipfile.ZipFile(folder / "bundle") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Catalog]:
    catalog = with_model(tmp_path / "home")
    yield catalog
    catalog.close()
