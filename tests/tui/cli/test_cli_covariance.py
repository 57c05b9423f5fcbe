"""Covariances on the command line: extended, converged, plotted, exported, imported, and refused files."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from retcon.tests.helpers.command_line import FIELD, Retcon

WIDTH = 56
PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"


@dataclass
class Place:
    """A home with covariances 1 (layer 1) and 2 (layer 2) of 900 tokens, and two of all 4,000; the first exported."""

    retcon: Retcon
    folder: Path
    texts: Path
    made: list[dict[str, Any]]
    whole: list[dict[str, Any]]

    @property
    def own(self) -> Path:
        return self.folder / "one.safetensors"

    @property
    def npz(self) -> Path:
        return self.folder / "one.npz"

    def run(self, tokens: int, *words: object, layers: str = "1,2") -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = self.retcon.json(
            "covariance",
            "run",
            "tiny",
            "--layers",
            layers,
            "--texts",
            self.texts,
            "--max-tokens",
            tokens,
            *words,
        )["covariances"]
        return made

    def sums(self, record: dict[str, Any]) -> np.ndarray:
        """The sum of k k^T, as an exported file has it."""
        file = self.folder / f"sums-{record['covariance']}.safetensors"
        if not file.exists():
            self.retcon("covariance", "export", record["covariance"], file)
        return load_file(file)["total"]


@pytest.fixture(scope="module")
def place(template_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("covariances")
    chance = random.Random(0)
    rows = [" ".join(f"w{chance.randrange(50)}" for _ in range(20)) for _ in range(200)]
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    found = Place(Retcon(template_home).copy(folder / "home"), folder, texts, [], [])
    found.made = found.run(900)
    found.whole = found.run(10**6)
    found.retcon("covariance", "export", 1, found.own)
    found.retcon("covariance", "export", 1, found.npz)
    return found


def test_extended_covariance_equals_one_run(place: Place) -> None:
    ids = [one["covariance"] for one in place.made]
    longer = place.retcon.json("covariance", "extend", *ids, "--max-tokens", 10**6)["covariances"]
    assert [one["origin"] for one in longer] == [{"extends": id} for id in ids]
    told = ("artifact", "curve", "tokens", "documents", "texts_revision", "tokenizer", "fingerprint", "layer")
    assert [[one[name] for name in told] for one in longer] == [
        [one[name] for name in told] for one in place.whole
    ]
    assert all(one["tokens"] > 3600 and one["curve"] for one in longer)
    assert [place.retcon.json("covariance", "show", id) for id in ids] == place.made, "the old ones stay"
    extend = ("covariance", "extend", place.whole[0]["covariance"], "--max-tokens", 10**7)
    assert "no more text" in place.retcon.refused(*extend)


def test_run_stops_when_converged(place: Place) -> None:
    whole = place.whole[0]
    assert len(whole["curve"]) >= 1
    tolerance = whole["curve"][0]["mean"]
    (converged,) = place.run(10**6, "--until-converged", tolerance, layers="1")
    assert converged["tokens"] == whole["curve"][0]["tokens"] < whole["tokens"]
    assert converged["curve"] == whole["curve"][:1]
    again = ("covariance", "extend", converged["covariance"], "--until-converged", tolerance)
    assert "converged to" in place.retcon.refused(*again, "--max-tokens", 10**6)
    (longer,) = place.retcon.json("covariance", "extend", converged["covariance"], "--max-tokens", 10**6)[
        "covariances"
    ]
    assert longer["artifact"] == whole["artifact"]

    shown = place.retcon("covariance", "show", whole["covariance"])
    assert f"{whole['curve'][-1]['tokens']:,}" in shown and "█" in shown
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        drawn = place.folder / f"curve{suffix}"
        place.retcon("covariance", "plot", whole["covariance"], "--out", drawn)
        assert drawn.read_bytes().startswith(magic)
    assert "no convergence curve" in place.retcon.refused("covariance", "plot", 1)


def test_exported_covariance_is_imported_and_used(place: Place, tmp_path: Path, template_home: Path) -> None:
    """Another home with the same base imports it, and an edit there uses it without collecting one."""
    retcon = Retcon(template_home).copy(tmp_path / "home")
    made, came = (
        place.made[0],
        retcon.json("covariance", "import", place.own, "--model", "tiny", "--layer", 1),
    )
    own = {"covariance", "artifact", "origin", "created"}
    assert {name: made[name] for name in set(made) - own} == {name: came[name] for name in set(came) - own}
    origin = came["origin"]
    assert (origin["imported"], origin["model"], origin["before"]) == (str(place.own), "tiny", {})
    retcon("covariance", "export", came["covariance"], tmp_path / "again.safetensors")
    assert np.array_equal(load_file(tmp_path / "again.safetensors")["total"], load_file(place.own)["total"])

    hparams = tmp_path / "hparams.json"
    hparams.write_text(json.dumps(FIELD | {"layers": [1]}))
    edit = (
        "edit",
        "run",
        "tiny",
        "--prompt",
        PROMPT,
        "--subject",
        SUBJECT,
        "--target",
        "Rome",
        "--hparams",
        hparams,
    )
    assert retcon.json(*edit)["covariances"] == [came["covariance"]]
    assert "was imported" in retcon.refused("covariance", "extend", came["covariance"], "--max-tokens", 10**6)
    assert str(place.own) in retcon("covariance", "show", came["covariance"])

    # A covariance of other weights is not used by default.
    with sqlite3.connect(retcon.home / "catalog.db") as connection:
        connection.execute("UPDATE covariance SET fingerprint = 'other'")
    connection.close()
    assert retcon.json(*edit)["covariances"] == [came["covariance"] + 1]


def test_npz_matches_the_published_format(place: Place, tmp_path: Path, template_home: Path) -> None:
    """The file is read and written like in rome's util/runningstats.py, in float32."""
    with np.load(place.npz) as data:
        assert data["mom2.constructor"] == "util.runningstats.SecondMoment()"
        assert (int(data["mom2.count"]), int(data["sample_size"])) == (900, place.made[0]["documents"])
        total = data["mom2.mom2"]
    assert np.array_equal(total, load_file(place.own)["total"])

    folder = tmp_path / "tiny" / "wikipedia_stats"
    folder.mkdir(parents=True)
    file = folder / "model.layers.1.mlp.down_proj_float32_mom2_100000.npz"
    constructor = "util.runningstats.SecondMoment()"
    np.savez(file, **{"mom2.constructor": constructor, "mom2.count": 900, "mom2.mom2": total.astype(np.float32),
                      "sample_size": 100_000})  # fmt: skip
    retcon = Retcon(template_home).copy(tmp_path / "home")
    came = retcon.json("covariance", "import", file, "--model", "tiny", "--layer", 1)
    assert (came["tokens"], came["documents"], came["texts"]) == (900, 100_000, "wikipedia")
    assert (came["seed"], came["max_length"], came["tokenizer"], came["curve"]) == (None, None, None, [])
    retcon("covariance", "export", came["covariance"], tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as data:
        assert np.allclose(data["mom2.mom2"], total, rtol=1e-6, atol=1e-6 * np.abs(total).max())
    assert "is of model.layers.1.mlp" in retcon.refused(
        "covariance", "import", file, "--model", "tiny", "--layer", 2
    )


Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.pop("mom2.count"), "lacks mom2.count"),
        (lambda data: data.pop("mom2.mom2"), "lacks mom2.mom2"),
        (lambda data: data.update({"mom2.count": np.array(0)}), "invalid number of tokens"),
        (lambda data: data.update({"mom2.count": np.array(2**64 - 1, np.uint64)}), "invalid number of tokens"),
        (lambda data: data.update({"mom2.count": np.array(1.5)}), "one whole number"),
        (lambda data: data.update({"mom2.count": np.array([1, 2])}), "one whole number"),
        (lambda data: data.update({"mom2.mom2": np.ones((WIDTH, WIDTH), int)}), "floating point"),
        (lambda data: data.update({"mom2.mom2": np.ones((WIDTH, WIDTH), "U4")}), "floating point"),
        (lambda data: data.update({"mom2.mom2": np.ones((WIDTH, WIDTH), complex)}), "floating point"),
        (lambda data: data.update({"mom2.mom2": np.array(3.0)}), "holds ()"),
        (lambda data: data.update({"mom2.mom2": np.eye(WIDTH + 1)}), "(57, 57)"),
        (lambda data: data["mom2.mom2"].__setitem__((3, 3), np.nan), "not finite"),
        (lambda data: data["mom2.mom2"].__setitem__((3, 3), np.inf), "not finite"),
        (lambda data: data["mom2.mom2"].__setitem__((3, 3), -1), "not a second moment"),
        (lambda data: data["mom2.mom2"].__setitem__((3, 4), data["mom2.mom2"][3, 4] * 0.5 + 1), "not symmetric"),
        (lambda data: data["mom2.mom2"].__setitem__(np.s_[3:5, 3:5], [[1, 2], [2, 1]]), "not a second moment"),
        (lambda data: data.update({"mom2.mom2": np.array([[{}]], object)}), "without pickle"),
    ],
)  # fmt: skip
def test_invalid_npz_is_refused(change: Change, says: str, place: Place, tmp_path: Path) -> None:
    with np.load(place.npz) as data:
        arrays = {name: data[name] for name in data.files}
    change(arrays)
    np.savez(tmp_path / "other.npz", allow_pickle=True, **arrays)
    assert says in refused(place, tmp_path / "other.npz")


def refused(place: Place, file: Path, layer: int = 1) -> str:
    """The error for a refused file. Nothing of it is stored."""
    artifacts = sorted((place.retcon.home / "artifacts").rglob("*"))
    sentence = place.retcon.refused("covariance", "import", file, "--model", "tiny", "--layer", layer)
    assert sorted((place.retcon.home / "artifacts").rglob("*")) == artifacts
    assert file.name in sentence or layer != 1
    return sentence


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
def test_truncated_file_is_refused(suffix: str, kept: float, place: Place, tmp_path: Path) -> None:
    data = place.own.with_suffix(suffix).read_bytes()
    file = tmp_path / f"cut{suffix}"
    file.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    assert "cannot be read" in refused(place, file)


def metadata_of(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    data = file.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: made.update(fingerprint="0" * 64), "is of other weights"),
        (lambda made: made.update(module="model.layers.2.mlp.down_proj"), "is of model.layers.2"),
        (lambda made: made.update(fingerprint=""), "invalid metadata"),
        (lambda made: made.update(tokens="many"), "invalid metadata"),
        (lambda made: made.update(tokens=10**30), "invalid metadata"),
        (lambda made: made.update(tokens=None), "invalid metadata"),
        (lambda made: made.update(documents=-1), "invalid metadata"),
        (lambda made: made.update(texts=["a"]), "invalid metadata"),
        (lambda made: made.update(curve=[{"tokens": 3}]), "invalid metadata"),
        (lambda made: made.update(curve="flat"), "invalid metadata"),
        (lambda made: made.update(created="yesterday"), "invalid metadata"),
        (lambda made: made.update(origin="the moon"), "invalid metadata"),
        (lambda made: made.pop("seed"), "invalid metadata"),
    ],
)
def test_safetensors_with_wrong_metadata_is_refused(
    change: Callable[[dict[str, Any]], None], says: str, place: Place, tmp_path: Path
) -> None:
    metadata, made = metadata_of(place.own), json.loads(metadata_of(place.own)["made"])
    change(made)
    save_file(load_file(place.own), tmp_path / "other.safetensors", metadata | {"made": json.dumps(made)})
    assert says in refused(place, tmp_path / "other.safetensors")


def test_changed_safetensors_is_refused(place: Place, tmp_path: Path) -> None:
    total = load_file(place.own)["total"].copy()
    total[0, 0] += 1
    file = tmp_path / "other.safetensors"
    save_file({"total": total}, file, metadata_of(place.own))
    assert "has changed since" in refused(place, file)
    save_file({"total": total}, file)
    assert "not a covariance that retcon exported" in refused(place, file)
    save_file(load_file(place.own), file, metadata_of(place.own) | {"made": "[" * 100_000})
    assert "invalid metadata" in refused(place, file)


def test_wrong_arguments_are_refused(place: Place, tmp_path: Path) -> None:
    retcon = place.retcon
    assert "no layer 9" in refused(place, place.own, layer=9)
    assert "is of model.layers.1" in refused(place, place.own, layer=2)
    other = tmp_path / "one.pt"
    shutil.copy(place.own, other)
    assert ".safetensors and .npz" in refused(place, other)
    assert "no file" in refused(place, tmp_path / "nowhere.npz")
    for file, says in ((place.own, "exists already"), (tmp_path / "a.pt", ".safetensors or .npz"),
                       (tmp_path / "no" / "a.npz", "no folder")):  # fmt: skip
        assert says in retcon.refused("covariance", "export", 1, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.pt"]
    extend = ("covariance", "extend", "--max-tokens")
    assert "covariance 999 does not exist" in retcon.refused(*extend, 5000, 999)
    assert "has 900 tokens already" in retcon.refused(*extend, 900, 1)
    assert "not the layers of one run" in retcon.refused(*extend, 5000, 1, 1)


def test_extend_refuses_changed_texts(place: Place, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("The Eiffel Tower is located in the city of Paris\n" * 20)
    collect = ("covariance", "run", "tiny", "--layers", 1, "--texts", texts, "--max-tokens", 50)
    (made,) = place.retcon.json(*collect)["covariances"]
    texts.write_text("The Eiffel Tower is located in the city of Rome\n" * 20)
    extend = ("covariance", "extend", made["covariance"], "--max-tokens", 100)
    assert "its texts changed" in place.retcon.refused(*extend)


def test_wikipedia_names_the_hub_data_set(place: Place) -> None:
    collect = ("covariance", "run", "tiny", "--layers", 1, "--texts", "wikipedia")
    assert "'wikimedia/wikipedia:20231101.en'" in place.retcon.refused(*collect, HF_HUB_OFFLINE="1")
