"""Settings of an editing method, in the field's own names, and the presets that retcon ships per model.

A flat JSON as rome and memit have it is read as it is. A preset in `hparams/` names its models and its source and
holds one such object per method.
"""

import difflib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError

# Names that the published files carry and that retcon finds out by itself, or that only name its inputs.
_FOUND_ELSEWHERE = {
    "rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module",
    "mom2_dataset", "mom2_n_samples", "mom2_dtype", "context_template_length_params", "model_name", "alg_name",
    "device", "stats_dir", "max_length", "model_parallel", "fp16", "config_n_positions", "config_n_embeddings",
}  # fmt: skip


# What the spreading methods have instead of ROME's settings (memit, hparams/MEMIT/EleutherAI_gpt-j-6B.json).
_SPREADING = {"v_num_grad_steps": 25, "clamp_norm_factor": 0.75, "mom2_update_weight": 15_000.0}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "memit": _SPREADING,
    "emmet": _SPREADING | {"mom2_update_weight": 1.0},
    "alphaedit": _SPREADING | {"v_lr": 0.1},
    "joint": {"contexts": 0},
    # rome, hparams/FT/gpt2-xl_constr.json.
    "ft-l": {"num_steps": 25, "lr": 5e-4, "weight_decay": 0.0, "kl_factor": 0.0, "contexts": 0},
    "lora": {"num_steps": 50, "weight_decay": 0.0, "kl_factor": 0.0, "contexts": 0},
}
# Methods that take another's settings where a preset has none of their own, or at least its layers.
_STAND_IN = {"r-rome": "rome", "emmet": "memit", "alphaedit": "memit"}
_SAME_LAYERS = {"joint": "rome", "ft-l": "rome"}


@dataclass(frozen=True)
class Hparams:
    """Settings of the methods. The defaults are ROME's (Meng et al. 2022, appendix E.5); those of the methods that
    spread over several layers differ, see `_DEFAULTS`.

    `mom2_update_weight`, `emmet_lambda`, `nullspace_threshold` and `L2` are MEMIT's, EMMET's and AlphaEdit's;
    `spread` is how a residual is divided among layers: evenly, or as PMET does by the square root of those left.
    `num_steps`, `lr` and `weight_decay` belong to the methods that train a change of the weights (joint, FT-L, LoRA);
    so do `rows`, of which a step learns (0: all), `epochs`, how often it learns from each that is new (0: what
    `num_steps` allow), and `kept_rows`, other text, strangers and prompts that a step is held to. `keys` says whose
    keys joint writes over, those of whole requests or of their subjects alone, but for directions with less than
    `key_tolerance` of the largest one's weight; with `bf16` the passes of a training run in bfloat16, whatever the
    model is in. `norm_constraint` is FT-L's (no entry moves farther), `lora_rank` and `lora_alpha` are LoRA's.
    """

    layers: tuple[int, ...]
    fact_token: str = "subject_last"
    v_num_grad_steps: int = 20
    v_lr: float = 0.5
    v_loss_layer: int | None = None
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 4.0
    kl_factor: float = 0.0625
    mom2_adjustment: bool = True
    contexts: int = 5
    mom2_update_weight: float = 1.0
    emmet_lambda: float = 0.1
    nullspace_threshold: float = 0.02
    L2: float = 10.0
    spread: str = "even"
    num_steps: int = 60
    lr: float = 1e-3
    weight_decay: float = 0.1
    rows: int = 0
    epochs: int = 0
    kept_rows: int = 0
    keys: str = "request"
    key_tolerance: float = 1e-6
    bf16: bool = False
    norm_constraint: float = 5e-4
    lora_rank: int = 8
    lora_alpha: int = 16

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"layers": list(self.layers)}

    def with_changes(self, **changes: Any) -> "Hparams":
        return replace(self, **changes)


# Methods that train every layer where none is named.
EVERY_LAYER = ("lora",)
_AT_LEAST_ONE = ("v_num_grad_steps", "lora_rank")
_ABOVE_ZERO = ("L2", "mom2_update_weight")


def parse_hparams(data: Any, where: str, method: str) -> Hparams:
    """Settings from a JSON object, flat or under the method's name.

    Raises:
        InputError: naming the field that is unknown, missing or of the wrong type.
    """
    if isinstance(data, dict) and isinstance(data.get(method), dict):
        data = data[method]
    if not isinstance(data, dict):
        raise InputError(f"{where} must be a JSON object with the settings of {method}")
    known = {field.name for field in fields(Hparams)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name in known:
            values[name] = value
        elif name not in _FOUND_ELSEWHERE:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where} has an unknown field {name!r}{hint}")
    layers: Any = values.get("layers", [] if method in EVERY_LAYER else None)
    none_named = method in EVERY_LAYER and "layers" not in values
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        layers = None
    if not layers and not none_named:
        raise InputError(f"{where}: 'layers' must be a list of layer numbers such as [5]")
    for name in _ABOVE_ZERO:
        if values.get(name) == 0:
            raise InputError(f"{where}: {name!r} must be above 0: the method divides by it")
    for field in fields(Hparams):
        value = values.get(field.name)
        if field.type in (float, int) and field.name in values:
            ok = type(value) is int or (field.type is float and type(value) is float and math.isfinite(value))
            least = 1 if field.name in _AT_LEAST_ONE else 0
            if not ok or values[field.name] < least:
                kind = "number" if field.type is float else "whole number"
                raise InputError(
                    f"{where}: {field.name!r} must be a {kind} of {least} or more, not {value!r}"
                )
        if field.type is bool and field.name in values and type(value) is not bool:
            raise InputError(f"{where}: {field.name!r} must be true or false, not {value!r}")
    if values.get("fact_token", "subject_last") != "subject_last":
        raise InputError(
            f"{where}: retcon reads the key at fact_token 'subject_last' only, not {values['fact_token']!r}"
        )
    if values.get("spread", "even") not in ("even", "sqrt"):
        raise InputError(f"{where}: 'spread' must be 'even' or 'sqrt', not {values['spread']!r}")
    if values.get("keys", "request") not in ("request", "subject"):
        raise InputError(f"{where}: 'keys' must be 'request' or 'subject', not {values['keys']!r}")
    return Hparams(**_DEFAULTS.get(method, {}) | values | {"layers": tuple(layers)})


def read_hparams(path: Path, method: str) -> Hparams:
    """Settings from a JSON file.

    Raises:
        InputError: the file cannot be read; says where and why.
    """
    return parse_hparams(read_json(path), str(path), method)


def read_json(path: Path) -> Any:
    """What a settings file holds. Raises InputError: it cannot be read; says where and why."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the hparams file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the hparams file {path} is no JSON: {error}") from error


@cache
def presets() -> dict[str, tuple[str, dict[str, Any]]]:
    """Shipped presets by model: hub id (or `starter`) -> (file name, its content)."""
    found = {}
    for entry in resources.files("retcon.hparams").iterdir():
        if entry.name.endswith(".json"):
            data = json.loads(entry.read_text(encoding="utf-8"))
            for model in data["models"]:
                found[model] = (entry.name, data)
    return found


def preset(source: str, method: str) -> Hparams | None:
    """The shipped settings for a model's source, or None."""
    if source not in presets():
        return None
    name, data = presets()[source]
    return _of_method(data, f"the preset {name}", method)


def saved(path: Path, method: str) -> dict[str, Any]:
    """The single settings that a person saved for a model (`retcon trace locate --save`); empty without a file.

    Raises:
        InputError: the file was changed to something that is no settings.
    """
    if not path.exists():
        return {}
    given = read_json(path)
    if not isinstance(given, dict):
        raise InputError(
            f"{path} must be a JSON object of settings by method; remove it to have the presets again"
        )
    key, given = _settings_for(method, given)
    if key not in given:
        return {}
    settings = parse_hparams(given[key], str(path), key)
    return {
        field.name: getattr(settings, field.name) for field in fields(settings) if field.name in given[key]
    }


def _of_method(data: dict[str, Any], where: str, method: str) -> Hparams | None:
    key, data = _settings_for(method, data)
    return parse_hparams(data[key], where, method) if key in data else None


def _settings_for(method: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Under which key `data` has the settings that a method takes, and `data` with them."""
    if method in data or method not in _SAME_LAYERS:
        return (method if method in data else _STAND_IN.get(method, method)), data
    other = data.get(_SAME_LAYERS[method])
    layers = {"layers": other.get("layers")} if isinstance(other, dict) else other
    return method, data if other is None else data | {method: layers}


def defaults(method: str) -> Hparams:
    """A method's settings without any layer."""
    return Hparams(layers=(), **_DEFAULTS.get(method, {}))
