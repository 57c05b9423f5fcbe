"""Key/value caches with which a `Resumption` calls the blocks of a model."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import UnsupportedModel


class StopForward(Exception):
    """Ends a forward pass when all requested values are there."""


class PrefixCache(DynamicCache):
    """The keys and values of a run's positions < start, for blocks that are called with `rows` of the run."""

    def __init__(self, cache: DynamicCache, start: int) -> None:
        super().__init__()
        self.rows: Tensor | None = None
        self._prefixes: list[tuple[Tensor, Tensor]] = []
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

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self._prefixes:
            return key_states, value_states
        keys, values = self._prefixes[layer_idx]
        assert self.rows is not None
        rows = self.rows.to(keys.device)
        return torch.cat([keys[rows], key_states], dim=-2), torch.cat([values[rows], value_states], dim=-2)


class RecordingCache(DynamicCache):
    """Records a block's keys and values and ends its call."""

    recorded: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.recorded = (key_states, value_states)
        raise StopForward


class PastCache(DynamicCache):
    """The keys and values of all positions before the one that a block is called with."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._past = (keys, values)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._past
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
