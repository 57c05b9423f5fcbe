"""A covariance's blocks on a Ray."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import psutil
import torch

from .....store.exchange.covariance import unpack_triangle
from ....covariance.collect import BlockReader, BlockSums, DocumentBlock
from .model import Remote
from .shards import Shard

# Blocks that may be done before it is their turn to be added up, as far as their sums find room.
_LEAST_AHEAD, _MOST_AHEAD = 4, 64
# What a worker sends: its sums, and keys of some documents.
_Sent = tuple[dict[int, np.ndarray], dict[int, list[np.ndarray]]]


def reader(remote: Remote) -> BlockReader:
    """Reads blocks on the workers and yields them in their order: they add up to the bits that one process gives."""
    return functools.partial(_read, remote)


def _read(
    remote: Remote, blocks: Iterator[DocumentBlock], layers: Sequence[int], on_tokens: Callable[[int], None]
) -> Iterator[tuple[DocumentBlock, BlockSums]]:
    # Those that are not yielded yet, in their order, and what has come of them.
    taken: dict[int, DocumentBlock] = {}
    early: dict[int, _Sent] = {}
    tokens, width = 0, remote.anatomy.key_width

    def shards() -> Iterator[Shard]:
        for block in blocks:
            taken[block.number] = block
            arguments = (block.rows, layers, block.number == 0)
            yield Shard(block.number, "read", arguments, block.size, f"block {block.number}")

    def tell() -> None:
        on_tokens(next((block.tokens for block in taken.values()), tokens))

    done = remote.pool.results(shards(), tell, ahead=_ahead(len(layers), width), queued=2)
    for shard, sent in done:
        early[shard.number] = _copied(sent)
        while taken and (number := next(iter(taken))) in early:
            block = taken.pop(number)
            tokens = block.tokens + block.size
            yield block, _sums(early.pop(number), layers, width)


def _ahead(layers: int, width: int) -> int:
    room = psutil.virtual_memory().available // 4
    return max(_LEAST_AHEAD, min(_MOST_AHEAD, room // (layers * 2 * width * width)))


def _copied(sent: _Sent) -> _Sent:
    """In memory of this process's own: Ray's store has the room again."""
    triangles, middles = sent
    return {layer: triangle.copy() for layer, triangle in triangles.items()}, middles


def _sums(sent: _Sent, layers: Sequence[int], width: int) -> BlockSums:
    triangles, middles = sent
    sums = {
        layer: torch.from_numpy(unpack_triangle(triangle, width)) for layer, triangle in triangles.items()
    }
    return BlockSums(
        sums, {layer: [torch.tensor(keys) for keys in middles.get(layer, [])] for layer in layers}
    )
