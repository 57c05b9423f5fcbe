"""Broken files of all kinds: each import ends with one sentence, and stores nothing of an invalid file."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retcon.tests.helpers.all_importers import importers
from retcon.tests.helpers.import_bench import Bench, Importer, Tally

NAMES = ("facts.json", "facts.jsonl", "facts.csv", "references", "covariance.npz", "covariance.safetensors",
         "traces", "bundle", "export", "hparams", "hparams.yaml", "saved settings", "config.toml", "model.safetensors",
         "model.safetensors.index.json")  # fmt: skip


@pytest.fixture(scope="module")
def all_importers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Importer]:
    found = {one.name: one for one in importers(tmp_path_factory.mktemp("sound"))}
    assert tuple(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_hostile_files_are_rejected_cleanly(
    name: str, all_importers: dict[str, Importer], tmp_path: Path
) -> None:
    importer, bench = all_importers[name], Bench(tmp_path)

    @settings(suppress_health_check=list(HealthCheck))
    @given(st.data())
    def try_files(data: st.DataObject) -> None:
        tally = Tally()
        bench.try_import(importer, data.draw(importer.files), tally)
        assert not tally.complaints

    try:
        try_files()
    finally:
        bench.close()
