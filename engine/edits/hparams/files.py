"""Settings from files: JSON as rome and memit publish it, YAML as EasyEdit does, shipped presets, saved settings."""

import difflib
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from .. import HPARAMS
from .base import Hparams


class _YamlLoader(yaml.SafeLoader):
    """Reads `5e-1` as a number, as YAML 1.2 does."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_hparams(data: Any, where: str, method: str, *, skip_other_methods: bool = False) -> Hparams:
    """Build a method's settings from an object, flat or under the method's name.

    With `skip_other_methods`, settings of other methods are dropped, as old catalogs and saved files may hold them.

    Raises:
        InputError: names the field that is unknown, missing or out of bounds.
    """
    if isinstance(data, dict) and isinstance(data.get(method), dict):
        data = data[method]
    if not isinstance(data, dict):
        raise InputError(f"{where} must be an object with the settings of {method}")
    known = _field_names(method)
    values = {}
    for name, value in data.items():
        others = [] if name in known else [other for other in HPARAMS if name in HPARAMS[other].field_names()]
        if name in known:
            values[name] = value
        elif not others:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where} has an unknown field {name!r}{hint}")
        elif not skip_other_methods:
            raise InputError(f"{where}: {name!r} is a setting of {', '.join(others)}, not of {method}")
    hparams = HPARAMS[method].parse(values, where)
    if not hparams.layers and hparams.needs_layers:
        raise InputError(f"{where}: 'layers' must be a list of layer numbers such as [5]")
    return hparams


@cache
def _field_names(method: str) -> frozenset[str]:
    """All names that a file may hold for a method."""
    hparams = HPARAMS[method]
    return frozenset({*hparams.field_names(), *hparams.fixed, *hparams.without_effect, "rewrite_module_tmps"})


def read_hparams(path: Path, method: str) -> Hparams:
    """Read a method's settings from a JSON or YAML file.

    Raises:
        InputError: the file cannot be read, or a setting is wrong.
    """
    return parse_hparams(read_settings_file(path), str(path), method)


def read_settings_file(path: Path) -> Any:
    """Parse a settings file: YAML if its name ends in .yaml or .yml, else JSON.

    Raises:
        InputError: the file cannot be read or parsed.
    """
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, _YamlLoader) if is_yaml else json.loads(text)
    except OSError as error:
        raise InputError(f"cannot read the hparams file {path}: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "YAML" if is_yaml else "JSON (name a YAML file .yaml)"
        raise InputError(f"the hparams file {path} is not valid {kind}: {error}") from error


@cache
def load_presets() -> dict[str, tuple[str, dict[str, Any]]]:
    """The shipped presets: hub id of a model (or `starter`) -> (file name, content)."""
    presets: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in resources.files("retcon.hparams").iterdir():
        if entry.name.endswith(".json"):
            data = json.loads(entry.read_text(encoding="utf-8"))
            presets |= dict.fromkeys(data["models"], (entry.name, data))
    return presets


def find_preset(source: str, method: str) -> Hparams | None:
    """The shipped settings for a model's source, or None."""
    if source not in load_presets():
        return None
    name, data = load_presets()[source]
    key, data = _select(method, data)
    return parse_hparams(data[key], f"the preset {name}", method) if key in data else None


def read_saved(path: Path, method: str) -> dict[str, Any]:
    """Read the single settings that `--save` stored for a model. Empty if there is no file.

    Raises:
        InputError: the file does not hold settings by method.
    """
    if not path.exists():
        return {}
    data = read_settings_file(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} must be a JSON object of settings by method; remove it to use the presets")
    key, data = _select(method, data)
    if key not in data:
        return {}
    hparams = parse_hparams(data[key], str(path), method, skip_other_methods=True)
    return hparams.model_dump(include=hparams.model_fields_set)


def _select(method: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The key under which `data` holds the settings for a method, and `data` with that key if it is derived."""
    hparams = HPARAMS[method]
    if method in data or hparams.layers_of is None:
        return (method if method in data else hparams.preset_of or method), data
    other = data.get(hparams.layers_of)
    layers = {"layers": other.get("layers")} if isinstance(other, dict) else other
    return method, data if other is None else data | {method: layers}
