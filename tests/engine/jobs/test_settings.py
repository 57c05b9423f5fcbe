"""Settings of jobs: files, saved settings, presets, trials of a sweep, checks before a job starts."""

import json
from pathlib import Path

import pytest

from retcon.engine.edits import HPARAMS
from retcon.engine.edits.hparams.files import find_preset, load_presets
from retcon.engine.edits.hparams.memit import MemitHparams
from retcon.engine.edits.hparams.rome import RRomeHparams
from retcon.engine.jobs import settings
from retcon.engine.jobs.specs import EditSpec, SweepSpec
from retcon.store.catalog.tables import Model
from retcon.store.errors import InputError
from retcon.store.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def model() -> Model:
    return Model(
        name="gpt", source="gpt2-medium", source_kind="hub", path="", architecture="", dtype="float32", parameters=1,
        size=1, anatomy={"layers": 24, "blocks": "transformer.h", "matrix": "mlp.c_proj"}, fingerprint="",
    )  # fmt: skip


def test_saved_settings_override_the_preset(home: Home, model: Model) -> None:
    spec = EditSpec("gpt", [])
    shipped = settings.resolve_hparams(spec, model, home)
    assert isinstance(shipped, RRomeHparams)
    assert shipped.layers == (8,) and shipped.clamp_norm_factor == 3
    settings.save_preset(home, "gpt", "r-rome", {"layers": [11], "v_lr": 0.25}, "a sweep")
    saved = settings.resolve_hparams(spec, model, home)
    assert saved == shipped.with_changes(layers=(11,), v_lr=0.25)
    changed = settings.resolve_hparams(EditSpec("gpt", [], hparams={"layers": [2]}), model, home)
    assert changed == saved.with_changes(layers=(2,))
    settings.save_preset(home, "gpt", "memit", {"layers": [1, 2]}, "another")
    assert settings.resolve_hparams(spec, model, home) == saved
    assert json.loads(home.preset("gpt").read_text())["sources"] == {"rome": "a sweep", "memit": "another"}


def test_saved_files_load_under_old_names(home: Home, model: Model) -> None:
    """Old files may also hold settings of other methods, which were saved without effect."""
    home.preset("gpt").write_text(
        json.dumps(
            {
                "memit": {"layers": [3], "spread": "sqrt", "num_steps": 7, "fact_token": "subject_last"},
                "joint": {"layers": [4], "kept_rows": 5},
            }
        )
    )
    memit = settings.resolve_hparams(EditSpec("gpt", [], method="memit"), model, home)
    joint = settings.resolve_hparams(EditSpec("gpt", [], method="joint"), model, home)
    assert memit.as_dict()["residual_split"] == "sqrt" and memit.layers == (3,)
    assert joint.as_dict()["preserved_rows"] == 5
    joint = settings.resolve_hparams(
        EditSpec("gpt", [], method="joint", hparams={"kept_rows": 6}), model, home
    )
    assert joint.as_dict()["preserved_rows"] == 6


@pytest.mark.parametrize("text", ["{", "[]", '{"sources": []}', "\udcff"])
def test_saving_refuses_to_replace_a_broken_file(home: Home, text: str) -> None:
    path = home.preset("gpt")
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"the preset .*gpt.*repair or remove it"):
        settings.save_preset(home, "gpt", "memit", {"layers": [1]}, "a sweep")
    assert path.read_bytes() == before


def test_trials_are_all_combinations_layer_by_layer(home: Home, model: Model) -> None:
    base = settings.sweep_hparams("memit", None, model, home)
    span = len(base["layers"])
    spec = SweepSpec(
        "gpt", [], [1, 9], base, method="memit", grid={"v_lr": [0.1, 0.5], "kl_factor": [0.0, 1.0]}
    )
    trials = settings.plan_trials(spec)
    assert [trial.position for trial in trials] == list(range(8))
    assert [trial.last for trial in trials] == [1] * 4 + [9] * 4
    assert trials[0].hparams.layers == tuple(range(max(0, 2 - span), 2))
    assert len(trials[4].hparams.layers) == span
    hparams = [trial.hparams for trial in trials[:4]]
    assert all(isinstance(one, MemitHparams) for one in hparams)
    assert [(one.as_dict()["v_lr"], one.as_dict()["kl_factor"]) for one in hparams] == [
        (0.1, 0.0), (0.1, 1.0), (0.5, 0.0), (0.5, 1.0),
    ]  # fmt: skip
    assert trials[3].changes == {"v_lr": 0.5, "kl_factor": 1.0}


def test_sweeps_of_old_catalogs_keep_their_settings() -> None:
    """Before each method had its own settings, a sweep stored those of all methods under old names."""
    stored = {"layers": [1, 2], "fact_token": "subject_last", "v_lr": 0.3, "spread": "sqrt", "kept_rows": 0}
    stored |= {"lora_rank": 8, "bf16": False, "v_loss_layer": None, "emmet_lambda": 0.1, "contexts": 5}
    [trial] = settings.plan_trials(SweepSpec("gpt", [], [4], stored, method="memit"))
    hparams = trial.hparams
    assert isinstance(hparams, MemitHparams)
    assert (hparams.layers, hparams.v_lr, hparams.residual_split) == ((3, 4), 0.3, "sqrt")


def test_an_unknown_model_needs_a_layer(home: Home, model: Model) -> None:
    model.source = "somebody/unknown"
    with pytest.raises(InputError, match="--layer"):
        settings.resolve_hparams(EditSpec("gpt", []), model, home)
    assert settings.sweep_hparams("r-rome", None, model, home)["layers"] == [0]
    assert len(settings.sweep_hparams("memit", None, model, home)["layers"]) == 5
    assert settings.resolve_hparams(EditSpec("gpt", [], method="lora"), model, home).layers == ()


def test_tries_use_the_current_names(home: Home) -> None:
    assert settings.parse_tries(["kept_rows=2,4", "lr=0.5"], "joint") == {
        "preserved_rows": [2, 4],
        "lr": [0.5],
    }
    for word, reason in (
        ("lr=fast", "'lr' is 'fast'"),
        ("v_lr=0.5", "'v_lr' is a setting of rome"),
        ("lrr=0.5", "did you mean 'lr'"),
        ("device=0", "has no effect"),
    ):
        with pytest.raises(InputError, match=reason):
            settings.parse_tries([word], "joint")


def test_a_file_for_another_matrix_is_refused(home: Home, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "gpt2-xl_attn.json"
    for module, is_edited in (("mlp.c_proj", True), ("attn.c_attn", False)):
        file.write_text(json.dumps({"layers": [3], "rewrite_module_tmp": f"transformer.h.{{}}.{module}"}))
        spec = EditSpec("gpt", [], method="ft-l", hparams_file=str(file))
        if is_edited:
            assert "rewrite_module_tmp" not in settings.resolve_hparams(spec, model, home).as_dict()
        else:
            with pytest.raises(
                InputError, match=r"'rewrite_module_tmp' is .*attn.c_attn.* edits .*mlp.c_proj"
            ):
                settings.resolve_hparams(spec, model, home)


@pytest.mark.parametrize("source", sorted(load_presets()))
@pytest.mark.parametrize("method", HPARAMS)
def test_every_shipped_preset_loads(source: str, method: str) -> None:
    """For each method: its own settings, those that stand in for them, or none."""
    hparams = find_preset(source, method)
    assert hparams is None or hparams.layers or not hparams.needs_layers
