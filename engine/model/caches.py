"""Key/value caches with which a `Resumption` calls the blocks of a model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import UnsupportedModel

KeysValues = tuple[Tensor, Tensor]


class FunctionCache(DynamicCache):
    """A cache that gives a block `extend(keys, values, layer)`: the keys and values of the past and of the block."""

    def __init__(self, extend: Callable[[Tensor, Tensor, int], KeysValues]) -> None:
        super().__init__()
        self.extend = extend

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> KeysValues:
        return self.extend(key_states, value_states, layer_idx)


class PrefixCache(FunctionCache):
    """The keys and values of a run's positions < start, for blocks that are called with `rows` of the run."""

    def __init__(self, cache: DynamicCache, start: int) -> None:
        super().__init__(self._prepend)
        self.rows = torch.empty(0, dtype=torch.long)
        self._prefixes: list[KeysValues] = []
        if start == 0:  # there is no prefix, even for layers that the run did not reach
            return
        for layer in cache.layers:
            if not isinstance(layer, DynamicLayer):
                raise UnsupportedModel(
                    f"a block stores its past as {type(layer).__name__}, not as keys and values"
                )
            assert layer.keys is not None and layer.values is not None  # set by the run
            keys, values = layer.keys[..., :start, :], layer.values[..., :start, :]
            self._prefixes.append((keys, values))
            # The model reads the length of the past from these layers, for its masks and positions.
            prefix = DynamicLayer()
            prefix.lazy_initialization(keys, values)
            prefix.keys, prefix.values = keys, values
            self.layers.append(prefix)

    def _prepend(self, keys: Tensor, values: Tensor, layer: int) -> KeysValues:
        return append(self._prefixes[layer], (keys, values), self.rows) if self._prefixes else (keys, values)


def append(past: KeysValues, new: KeysValues, rows: Tensor | slice = slice(None)) -> KeysValues:
    """Keys and values of some rows of the past, followed by the new ones along the positions."""
    if isinstance(rows, Tensor):
        rows = rows.to(past[0].device)
    return torch.cat([past[0][rows], new[0]], dim=-2), torch.cat([past[1][rows], new[1]], dim=-2)
