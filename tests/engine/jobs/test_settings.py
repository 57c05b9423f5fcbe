"""What is known of methods without torch is what the engine has."""

import json
from pathlib import Path

import pytest
from retcon.engine.edits import METHODS
from retcon.engine.edits.hparams import EVERY_LAYER, preset, presets, read_hparams
from retcon.engine.jobs import settings
from retcon.engine.jobs.specs import EditSpec, SweepSpec
from retcon.store.catalog.tables import Model
from retcon.store.errors import InputError
from retcon.store.home import Home
from retcon.tui.actions.presets import save_preset


def test_the_methods_are_the_engines() -> None:
    assert tuple(METHODS) == settings.METHODS
    assert tuple(name for name, method in METHODS.items() if method.batch == 1) == settings.ONE_AT_A_TIME


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def model() -> Model:
    return Model(
        name="gpt", source="gpt2-medium", source_kind="hub", path="", architecture="", dtype="float32", parameters=1,
        size=1, anatomy={"layers": 24}, fingerprint="",
    )  # fmt: skip


def test_what_was_saved_goes_before_the_preset(home: Home, model: Model) -> None:
    spec = EditSpec("gpt", [])
    shipped = settings.settings_of(spec, model, home)
    assert shipped.layers == (8,) and shipped.clamp_norm_factor == 3
    save_preset(home, "gpt", "r-rome", {"layers": [11], "v_lr": 0.25}, "a sweep")
    own = settings.settings_of(spec, model, home)
    assert own == shipped.with_changes(layers=(11,), v_lr=0.25)
    asked = settings.settings_of(EditSpec("gpt", [], hparams={"layers": [2]}), model, home)
    assert asked == own.with_changes(layers=(2,))
    save_preset(home, "gpt", "memit", {"layers": [1, 2]}, "another")
    assert settings.settings_of(spec, model, home) == own
    assert json.loads(home.preset("gpt").read_text())["sources"] == {"rome": "a sweep", "memit": "another"}


@pytest.mark.parametrize("text", ["{", "[]", '{"sources": []}', "\udcff"])
def test_nothing_is_saved_over_a_broken_file(home: Home, text: str) -> None:
    path = home.preset("gpt")
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"the preset .*gpt.*repair or remove it"):
        save_preset(home, "gpt", "memit", {"layers": [1]}, "a sweep")
    assert path.read_bytes() == before


def test_trials_are_all_combinations_layer_by_layer(home: Home, model: Model) -> None:
    usual = settings.sweep_settings("memit", None, model, home)
    span = len(usual["layers"])
    spec = SweepSpec(
        "gpt", [], [1, 9], usual, method="memit", tries={"v_lr": [0.1, 0.5], "kl_factor": [0.0, 1.0]}
    )
    trials = settings.trials_of(spec)
    assert [trial.position for trial in trials] == list(range(8))
    assert [trial.last for trial in trials] == [1] * 4 + [9] * 4
    assert trials[0].hparams.layers == tuple(range(max(0, 2 - span), 2))
    assert len(trials[4].hparams.layers) == span
    assert [(t.hparams.v_lr, t.hparams.kl_factor) for t in trials[:4]] == [
        (0.1, 0.0), (0.1, 1.0), (0.5, 0.0), (0.5, 1.0),
    ]  # fmt: skip
    assert trials[3].changes == {"v_lr": 0.5, "kl_factor": 1.0}


def test_a_model_that_nobody_knows_needs_a_layer(home: Home, model: Model) -> None:
    model.source = "somebody/unknown"
    with pytest.raises(InputError, match="--layer"):
        settings.settings_of(EditSpec("gpt", []), model, home)
    assert settings.sweep_settings("r-rome", None, model, home)["layers"] == [0]
    assert len(settings.sweep_settings("memit", None, model, home)["layers"]) == 5


@pytest.mark.parametrize(
    ("method", "setting"), [("alphaedit", "L2"), ("emmet", "mom2_update_weight"), ("lora", "lora_rank")]
)
def test_what_a_method_divides_by_is_not_nothing(method: str, setting: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"layers": [1], setting: 0}))
    with pytest.raises(InputError, match=f"'{setting}' must be"):
        read_hparams(path, method)


@pytest.mark.parametrize("source", sorted(presets()))
@pytest.mark.parametrize("method", METHODS)
def test_every_shipped_preset_can_be_read(source: str, method: str) -> None:
    """Whatever method it is asked for: its own settings, its stand-in's, or none."""
    found = preset(source, method)
    assert found is None or found.layers or method in EVERY_LAYER
