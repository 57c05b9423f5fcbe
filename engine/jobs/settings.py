"""Resolve and check the settings of a job before its process starts. Loads no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.atomic_files import write_atomically
from ...store.errors import InputError
from ...store.home import Home
from ..edits import HPARAMS
from ..edits.hparams import files
from ..edits.hparams.base import Hparams
from .specs import EditSpec, PassageSpec, SweepSpec

if TYPE_CHECKING:
    from ...store.catalog.tables import Model

# Ways to answer a passage's questions without changing weights, that an edit can be compared with.
BASELINES = ("prompt", "retrieval", "reranked")


def check_method(name: str) -> None:
    """Raise InputError unless a method of that name is registered."""
    if name not in HPARAMS:
        raise InputError(f"unknown method {name!r}: use one of {', '.join(HPARAMS)}")


def check_baselines(names: Sequence[str]) -> None:
    """Raise InputError unless each name is a baseline or a method."""
    for name in names:
        if name not in (*BASELINES, *HPARAMS):
            raise InputError(f"unknown baseline {name!r}: use one of {', '.join((*BASELINES, *HPARAMS))}")


def baseline_edit(spec: PassageSpec, method: str, revision: str) -> EditSpec:
    """The edit by another method that a passage is compared with, still without requests.

    A settings file applies only if it has settings under the method's name. Raises InputError if it cannot be read.
    """
    file = spec.hparams_file
    if file:
        data = files.read_settings_file(Path(file))
        file = file if isinstance(data, dict) and method in data else None
    return EditSpec(spec.model, [], revision, method, hparams_file=file, texts=spec.texts, seed=spec.seed)


def check_layers(model: "Model", layers: Sequence[int]) -> None:
    """Raise InputError for a layer that is out of range."""
    count = int(model.anatomy["layers"])
    for layer in layers:
        if not 0 <= layer < count:
            raise InputError(f"layer {layer} is out of range: {model.name} has layers 0 to {count - 1}")


def resolve_hparams(spec: EditSpec, model: "Model", home: Home) -> Hparams:
    """The settings of an edit: those of its file, else saved ones, else the model's preset; then the single changes.

    Raises:
        InputError: the method is unknown, the file is wrong, or no layer is known.
    """
    base = _base_hparams(spec.method, spec.hparams_file, model, home)
    if not base.layers and "layers" not in spec.hparams and base.needs_layers:
        raise InputError(
            f"retcon has no preset for {model.source} and needs a layer: name one with --layer "
            f"(retcon trace run {model.name}, then retcon trace locate, proposes some)"
        )
    return base.with_changes(**spec.hparams)


def _base_hparams(method: str, file: str | None, model: "Model", home: Home) -> Hparams:
    check_method(method)
    if file:
        hparams = files.read_hparams(Path(file), method)
        module, edited = (
            hparams.rewrite_module_tmp,
            f"{model.anatomy['blocks']}.{{}}.{model.anatomy['matrix']}",
        )
        if module not in (None, edited):
            raise InputError(f"{file}: 'rewrite_module_tmp' is {module!r}, but retcon edits {edited!r}")
        return hparams
    hparams = files.find_preset(model.source, method) or HPARAMS[method].parse({}, method)
    return hparams.with_changes(**files.read_saved(home.preset(model.name), method))


def sweep_hparams(method: str, file: str | None, model: "Model", home: Home) -> dict[str, Any]:
    """The settings that a sweep's trials start from, with as many layers as a trial edits.

    Raises InputError if the file is wrong.
    """
    base = _base_hparams(method, file, model, home)
    return base.with_changes(layers=base.layers or tuple(range(base.default_layer_count))).as_dict()


def parse_tries(words: Sequence[str], method: str) -> dict[str, list[Any]]:
    """Parse `NAME=VALUE[,VALUE..]` into the values to try per setting.

    Raises:
        InputError: wrong form, unknown name, invalid value, or a value that occurs twice.
    """
    tries: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not values.strip() or name in tries:
            raise InputError(f"--set {word!r} must be NAME=VALUE or NAME=VALUE,VALUE, each name once")
        if name == "layers":
            raise InputError("--set cannot change the layers; name those to try with --layers")
        parsed = [_parse_value(name, value.strip(), method) for value in values.split(",")]
        if len(set(map(str, parsed))) < len(parsed):
            raise InputError(f"--set {word!r} names a value twice")
        tries[HPARAMS[method].field_names()[name]] = parsed
    return tries


def _parse_value(name: str, text: str, method: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    hparams = files.parse_hparams({"layers": [0], name: value}, "--set", method)
    if hparams.model_fields_set == {"layers"}:
        raise InputError(f"--set {name} has no effect: retcon finds this itself")
    return value


@dataclass(frozen=True)
class Trial:
    """One point of a sweep: the settings it writes with, and those that differ from the sweep's."""

    position: int
    changes: dict[str, Any]
    hparams: Hparams

    @property
    def last(self) -> int:
        """The last edited layer, at which values are searched."""
        return self.hparams.layers[-1]


def plan_trials(spec: SweepSpec) -> list[Trial]:
    """The trials of a sweep, layer by layer. Raises InputError if its settings are wrong."""
    base = files.parse_hparams(spec.hparams, "the sweep", spec.method, skip_other_methods=True)
    trials: list[Trial] = []
    for layer in spec.layers:
        layers = tuple(range(max(0, layer - len(base.layers) + 1), layer + 1))
        for values in product(*spec.grid.values()):
            changes = dict(zip(spec.grid, values, strict=True))
            trials.append(Trial(len(trials), changes, base.with_changes(layers=layers, **changes)))
    return trials


def save_preset(home: Home, model: str, method: str, settings: Mapping[str, Any], source: str) -> Path:
    """Save single settings of a method for a model, and their source. Returns the file.

    Settings of other methods are kept. A kill leaves the old file.

    Raises:
        InputError: the existing file is not a preset.
    """
    path, key = home.preset(model), HPARAMS[method].saved_under or method
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        preset = {}
    except ValueError as error:
        raise InputError(f"the preset {path} is not valid JSON ({error}): repair or remove it") from None
    if not isinstance(preset, dict) or not isinstance(preset.get("sources", {}), dict):
        raise InputError(f"the preset {path} is not an object of settings by method: repair or remove it")
    sources = preset.get("sources", {}) | {key: source}
    preset |= {"models": [model], "sources": sources, key: dict(settings)}
    text = json.dumps(preset, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"), private=True)
    return path
