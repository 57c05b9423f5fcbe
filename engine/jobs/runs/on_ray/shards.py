"""Shards of work, distributed in order within a limited window. Loads no Ray."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shard:
    """One call of a worker's method. `size` is its amount of work in the pool's unit, `label` its name in messages."""

    number: int
    method: str
    arguments: tuple[Any, ...]
    size: float
    label: str


@dataclass
class ShardSource:
    """Shards in the order of their numbers. A shard is taken when a worker is idle."""

    shards: Iterator[Shard]
    # The next shard's number may exceed that of the first unfinished shard by less than this.
    window: int | None
    exhausted: bool = False
    in_progress: dict[int, Shard] = field(default_factory=dict)
    _latest: int = 0

    def take(self) -> Shard | None:
        """The next shard; None if all were taken, or if it lies outside the window."""
        too_early = (
            self.window and self.in_progress and self._latest + 1 >= min(self.in_progress) + self.window
        )
        if self.exhausted or too_early:
            return None
        shard = next(self.shards, None)
        if shard is None:
            self.exhausted = True
        else:
            self.in_progress[shard.number], self._latest = shard, shard.number
        return shard
