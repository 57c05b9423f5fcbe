"""Pieces of work that are given out in their order, but not too far ahead. Loads no Ray."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shard:
    """One piece of work: what to call on a worker. `size` counts it in the pool's unit; `about` is its name."""

    number: int
    method: str
    arguments: tuple[Any, ...]
    size: float
    about: str


@dataclass
class Source:
    """Shards in the order of their numbers, each taken when there is somebody to do it."""

    shards: Iterator[Shard]
    # How far the next may be ahead of the first that is not done.
    ahead: int | None
    ended: bool = False
    doing: dict[int, Shard] = field(default_factory=dict)
    _latest: int = 0

    def take(self) -> Shard | None:
        if self.ended or (self.ahead and self.doing and self._latest + 1 >= min(self.doing) + self.ahead):
            return None
        shard = next(self.shards, None)
        if shard is None:
            self.ended = True
        else:
            self.doing[shard.number], self._latest = shard, shard.number
        return shard
