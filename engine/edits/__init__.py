"""Editing methods: requests, a model, second moments and settings in; one delta out.

A new method takes a settings class in `hparams/`, a method class in this folder, and one line in `REGISTERED`. Both
classes are imported on first use, so this package can be imported without torch.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from .hparams.base import Hparams
    from .method import Method

# Method -> settings class (without torch) and method class, as "module:class". A leading dot means this package.
REGISTERED = {
    "rome": (".hparams.rome:RomeHparams", ".rome:Rome"),
    "r-rome": (".hparams.rome:RRomeHparams", ".rome:RRome"),
    "memit": (".hparams.memit:MemitHparams", ".memit:Memit"),
    "emmet": (".hparams.memit:EmmetHparams", ".emmet:Emmet"),
    "alphaedit": (".hparams.memit:AlphaEditHparams", ".alphaedit:AlphaEdit"),
    "joint": (".hparams.training:JointHparams", ".joint:Joint"),
    "ft-l": (".hparams.training:FineTuningHparams", ".fine_tuning:FineTuning"),
    "lora": (".hparams.training:LoraHparams", ".lora:Lora"),
}

T = TypeVar("T")


class _Registry(Mapping[str, T], Generic[T]):
    """Loads what belongs to a method name. Raises KeyError for an unknown name."""

    def __init__(self, load: Callable[[tuple[str, str]], T]) -> None:
        self._load = load

    def __getitem__(self, name: str) -> T:
        return self._load(REGISTERED[name])

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTERED)

    def __len__(self) -> int:
        return len(REGISTERED)


def _import_class(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module, __name__), name)


HPARAMS: Mapping[str, "type[Hparams]"] = _Registry(lambda entry: _import_class(entry[0]))
METHODS: Mapping[str, "Method[Any]"] = _Registry(lambda entry: _import_class(entry[1])())
