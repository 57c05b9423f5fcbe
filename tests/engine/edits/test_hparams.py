"""Settings per method: published files load, and values that retcon does not honor are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from retcon.engine.edits import HPARAMS, METHODS, REGISTERED
from retcon.engine.edits.hparams.base import Hparams
from retcon.engine.edits.hparams.files import read_hparams
from retcon.engine.errors import InputError

MODULES = {
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj", "layer_module_tmp": "transformer.h.{}",
    "mlp_module_tmp": "transformer.h.{}.mlp", "attn_module_tmp": "transformer.h.{}.attn",
    "ln_f_module": "transformer.ln_f", "lm_head_module": "transformer.wte",
}  # fmt: skip
MOMENT = {"mom2_dataset": "wikipedia", "mom2_n_samples": 100000, "mom2_dtype": "float32"}
SEARCH = {
    "fact_token": "subject_last", "v_num_grad_steps": 20, "v_lr": 0.5, "v_loss_layer": 47, "v_weight_decay": 0.5,
    "clamp_norm_factor": 0.75, "kl_factor": 0.0625, "mom2_adjustment": True,
}  # fmt: skip
SEVERAL = SEARCH | {"layers": [13, 14], "layer_selection": "all", "mom2_update_weight": 20000}
UNIFIED = {"calculate_objective_value": False, "update_norm_lambda": 0, "emmet_lambda": 0.1}
# One file per method as its repository publishes it.
PUBLISHED: dict[str, dict[str, Any]] = {
    "rome": SEARCH | {"layers": [17], "context_template_length_params": [[5, 10], [10, 10]]},
    "r-rome": SEARCH | {"layers": [17], "bias_update": False, "dynamic": False, "dynamic_multiplier": 1},
    "memit": SEVERAL | UNIFIED,
    "emmet": SEVERAL | UNIFIED,
    "alphaedit": SEVERAL | {"nullspace_threshold": 2e-2, "L2": 10, "model_name": "gpt2-xl"},
    "ft-l": {"layers": [0], "num_steps": 25, "lr": 5e-4, "weight_decay": 0, "kl_factor": 0, "norm_constraint": False},
}  # fmt: skip


def load(tmp_path: Path, method: str, data: dict[str, Any], name: str = "h.json") -> Hparams:
    path = tmp_path / name
    path.write_text(json.dumps(data))  # JSON is YAML as well
    return read_hparams(path, method)


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_json_loads(method: str, tmp_path: Path) -> None:
    data = PUBLISHED[method] | MODULES | MOMENT
    stored = load(tmp_path, method, data).as_dict()
    assert stored["layers"] == data["layers"]
    for name in set(stored) & set(data):
        assert stored[name] == (None if data[name] is False and name == "norm_constraint" else data[name])


@pytest.mark.parametrize("method", PUBLISHED)
def test_easyedit_yaml_loads(method: str, tmp_path: Path) -> None:
    """EasyEdit writes numbers as `5e-1`, which YAML 1.1 reads as text."""
    data = PUBLISHED[method] | MODULES | MOMENT
    lines = [f"{name}: {json.dumps(value)}" for name, value in data.items() if value != 0.5]
    lines += [f"{name}: 5e-1" for name, value in data.items() if value == 0.5]
    lines += ["alg_name: X", "stats_dir: ./data/stats", "device: 0", "model_parallel: false", "batch_size: 1"]
    path = tmp_path / "gpt2-xl.yaml"
    path.write_text("\n".join(lines))
    assert read_hparams(path, method) == load(tmp_path, method, data)


def test_pmet_files_split_by_the_square_root(tmp_path: Path) -> None:
    data = SEVERAL | {"alg_name": "PMET", "nll_loss_factor": 1, "rewrite_module_tmps": ["h.{}.mlp.fc_out"]}
    hparams = load(tmp_path, "memit", data)
    assert hparams.as_dict()["residual_split"] == "sqrt" and hparams.rewrite_module_tmp == "h.{}.mlp.fc_out"


@pytest.mark.parametrize(
    ("method", "name", "value", "reason"),
    [
        ("rome", "fact_token", "last", "'subject_last', not 'last'"),
        ("rome", "bias_update", True, "does not edit biases"),
        ("memit", "layer_selection", "random", "edits every layer"),
        ("memit", "mom2_adjustment", False, "always uses the second moment"),
        ("memit", "nll_loss_factor", 2, "does not scale"),
        ("memit", "rewrite_module_tmps", ["a.{}", "b.{}"], "one per layer"),
        ("emmet", "update_norm_lambda", 10, "does not penalize"),
        ("ft-l", "wd_power_law", [-0.87, 0.16], "number of facts"),
        ("ft-l", "objective_optimization", "x", "'target_new' or 'prompt_last'"),
        ("lora", "target_modules", ["q_proj", "v_proj"], "MLP matrix"),
        ("lora", "lora_type", "adalora", "plain LoRA"),
        ("r-rome", "original_implementation", True, "--method rome"),
    ],
)
def test_values_without_support_are_refused_by_name(
    method: str, name: str, value: object, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"'{name}'.*{reason}"):
        load(tmp_path, method, {"layers": [1], name: value})


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("alphaedit", "L2", 0),
        ("emmet", "mom2_update_weight", 0),
        ("lora", "lora_rank", 0),
        ("rome", "v_lr", -1),
        ("rome", "v_lr", True),
        ("rome", "v_lr", float("nan")),
        ("rome", "v_lr", 10**400),
        ("rome", "v_num_grad_steps", 2.5),
        ("rome", "mom2_adjustment", 1),
        ("rome", "layers", [1.5]),
        ("rome", "layers", "12"),
        ("rome", "layers", []),
        ("joint", "keys", "all"),
        ("ft-l", "norm_constraint", -1),
    ],
)
def test_values_out_of_bounds_are_refused(method: str, name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"h\.json: .*{name}|a number is too large"):
        load(tmp_path, method, {"layers": [1], name: value})


def test_unknown_fields_name_the_nearest_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown field 'v_rl'; did you mean 'v_lr'"):
        load(tmp_path, "rome", {"layers": [1], "v_rl": 0.5})
    with pytest.raises(InputError, match="'num_steps' is a setting of joint, ft-l, lora"):
        load(tmp_path, "rome", {"layers": [1], "num_steps": 5})


@pytest.mark.parametrize(
    "text", ["layers: [1", "a: &a [*a]\nlayers: *a", "[1]", "layers: 2020-99-99", "\0", ""]
)
def test_broken_yaml_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"h\.yaml"):
        read_hparams(path, "rome")


@pytest.mark.parametrize("method", HPARAMS)
def test_settings_survive_json(method: str) -> None:
    hparams = HPARAMS[method].parse({"layers": [2]}, "test")
    assert HPARAMS[method].parse(json.loads(json.dumps(hparams.as_dict())), "test") == hparams


class Half:
    """A method that is registered at run time."""

    name = "half"


def test_one_line_registers_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTERED, "half", (".hparams.rome:RomeHparams", f"{__name__}:Half"))
    assert HPARAMS["half"] is HPARAMS["rome"] and isinstance(METHODS["half"], Half)
    assert list(METHODS) == list(HPARAMS) == list(REGISTERED) and len(METHODS) == len(REGISTERED)
    assert "third" not in METHODS


@pytest.mark.parametrize("method", HPARAMS)
def test_every_field_is_described(method: str) -> None:
    assert all(field.description for field in HPARAMS[method].model_fields.values())
    assert METHODS[method].name == method
