"""Editing methods: requests, a model, second moments and settings in; one delta out.

Adding a method takes a file in this folder and one line in `_REGISTERED`. A method's module is imported when the method
is first looked up, so that this package can be imported without torch.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .method import Method

# Name -> "module:class".
_REGISTERED = {
    "rome": "rome:Rome",
    "r-rome": "rome:RRome",
    "memit": "memit:Memit",
    "emmet": "emmet:Emmet",
    "alphaedit": "alphaedit:AlphaEdit",
    "joint": "joint:Joint",
    "ft-l": "fine_tuning:FineTuning",
    "lora": "lora:Lora",
}


class _Methods(Mapping[str, "Method"]):
    """The registered methods by name. Raises KeyError for an unknown name."""

    def __getitem__(self, name: str) -> "Method":
        module, _, attribute = _REGISTERED[name].partition(":")
        method: Method = getattr(importlib.import_module(f".{module}", __name__), attribute)()
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(_REGISTERED)

    def __len__(self) -> int:
        return len(_REGISTERED)


METHODS = _Methods()
