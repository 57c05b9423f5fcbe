"""What the settings of a job come to, and what is refused before its process starts. Loads no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.errors import InputError
from ...store.home import Home
from ..edits import hparams as settings
from ..edits.hparams import Hparams
from ..tracing.rules import NoiseRule
from .specs import EditSpec, PassageSpec, SweepSpec

if TYPE_CHECKING:
    from ...store.catalog.tables import Model

# What engine.edits has (it imports torch); a test holds the two together.
METHODS = ("rome", "r-rome", "memit", "emmet", "alphaedit", "joint", "ft-l", "lora")
# Ways to answer a passage's questions that change no weight.
WAYS = ("prompt", "retrieval", "reranked")
# Those that write one request after another, each on the weights that the one before left.
ONE_AT_A_TIME = ("rome", "r-rome")
# Where nobody says how many layers a method edits: one, and for those that spread what the published presets have.
_SPREADING = {"memit": 5, "emmet": 5, "alphaedit": 5}


def check_method(name: str) -> None:
    """Raise InputError unless there is a method of that name."""
    if name not in METHODS:
        raise InputError(f"there is no method {name!r}; the methods are {', '.join(METHODS)}")


def check_ways(names: Sequence[str]) -> None:
    """Raise InputError unless a passage can be compared with each: a method, or one of WAYS."""
    for name in names:
        if name not in (*WAYS, *METHODS):
            raise InputError(
                f"there is no way {name!r} to compare with; there are {', '.join((*WAYS, *METHODS))}"
            )


def edit_by(spec: PassageSpec, method: str, revision: str) -> EditSpec:
    """The edit, of no request yet, with which a passage is compared; a file of settings serves if it names the method.

    Raises:
        InputError: the file cannot be read.
    """
    file = spec.hparams_file
    if file:
        found = settings.read_json(Path(file))
        file = file if isinstance(found, dict) and method in found else None
    return EditSpec(spec.model, [], revision, method, hparams_file=file, texts=spec.texts, seed=spec.seed)


def check_noise(rule: str) -> None:
    """Raise InputError unless this is a rule of engine.noise."""
    NoiseRule.parse(rule)


def check_layers(model: "Model", layers: Sequence[int]) -> None:
    """Raise InputError for a layer that the model has not."""
    count = int(model.anatomy["layers"])
    for layer in layers:
        if not 0 <= layer < count:
            raise InputError(f"there is no layer {layer}; {model.name} has layers 0 to {count - 1}")


def settings_of(spec: EditSpec, model: "Model", home: Home) -> Hparams:
    """The file's settings, else what was saved for the model, else its preset; then the single changes asked for.

    Raises:
        InputError: a file with something else in it, or nobody knows which layer to edit.
    """
    usual = _usual(spec.method, spec.hparams_file, model, home)
    changes = dict(spec.hparams)
    if "layers" in changes:
        changes["layers"] = tuple(changes["layers"])
    if not usual.layers and "layers" not in changes and spec.method not in settings.EVERY_LAYER:
        raise InputError(
            f"retcon ships no settings for {model.source} and does not know its layer: give one with --layer "
            f"(retcon trace run {model.name}, then retcon trace locate, proposes some)"
        )
    return usual.with_changes(**changes)


def _usual(method: str, file: str | None, model: "Model", home: Home) -> Hparams:
    if file:
        return settings.read_hparams(Path(file), method)
    found = settings.preset(model.source, method) or settings.defaults(method)
    return found.with_changes(**settings.saved(home.preset(model.name), method))


def sweep_settings(method: str, file: str | None, model: "Model", home: Home) -> dict[str, Any]:
    """What a sweep's trials start from; as many layers as a trial edits.

    Raises InputError for a file with something else in it.
    """
    usual = _usual(method, file, model, home)
    return usual.with_changes(layers=usual.layers or tuple(range(_SPREADING.get(method, 1)))).as_dict()


def parse_tries(words: Sequence[str], method: str) -> dict[str, list[Any]]:
    """`NAME=VALUE[,VALUE..]` as the values to try of each setting.

    Raises InputError: another form, an unknown name, a value of the wrong kind, or one twice.
    """
    tries: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not values.strip() or name in tries:
            raise InputError(f"--set {word!r} must be NAME=VALUE or NAME=VALUE,VALUE, each name once")
        if name == "layers":
            raise InputError("--set cannot change the layers; name those to try with --layers")
        tries[name] = [_checked(name, value.strip(), method) for value in values.split(",")]
        if len(set(map(str, tries[name]))) < len(tries[name]):
            raise InputError(f"--set {word!r} names a value twice")
    return tries


def _checked(name: str, text: str, method: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    parsed = settings.parse_hparams({"layers": [0], name: value}, "--set", method)
    if not hasattr(parsed, name):
        raise InputError(f"--set {name} changes nothing: retcon finds that out by itself")
    return value


@dataclass(frozen=True)
class Trial:
    """One point of a sweep: the settings that it writes with, and which of them are its own."""

    position: int
    changes: dict[str, Any]
    hparams: Hparams

    @property
    def last(self) -> int:
        """The last layer that is edited, at which values are searched."""
        return self.hparams.layers[-1]


def trials_of(spec: SweepSpec) -> list[Trial]:
    """All trials of a sweep, layer by layer."""
    usual = Hparams(**spec.hparams | {"layers": tuple(spec.hparams["layers"])})
    span = len(usual.layers)
    found: list[Trial] = []
    for layer in spec.layers:
        layers = tuple(range(max(0, layer - span + 1), layer + 1))
        for values in product(*spec.tries.values()):
            changes = dict(zip(spec.tries, values, strict=True))
            found.append(Trial(len(found), changes, usual.with_changes(layers=layers, **changes)))
    return found
