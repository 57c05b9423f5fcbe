"""A covariance's blocks on the workers of a Ray."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import psutil
import torch

from .....store.exchange.covariance import unpack_triangle
from ....covariance.collect import BlockSums, DocumentBlock
from .model import RemoteModel
from .shards import Shard

# Blocks that may be finished before all earlier ones are, as far as memory holds their sums.
_MIN_WINDOW, _MAX_WINDOW = 4, 64
# A worker's result: packed sums and the keys of some documents, by layer.
_BlockResult = tuple[dict[int, np.ndarray], dict[int, list[np.ndarray]]]


def read_on_ray(
    remote: RemoteModel,
    blocks: Iterator[DocumentBlock],
    layers: Sequence[int],
    on_tokens: Callable[[int], None],
) -> Iterator[tuple[DocumentBlock, BlockSums]]:
    """The `BlockReader` whose workers read blocks. It yields them in order: the sums have the bits of one process."""
    # Blocks that were given out and not yielded, in order; results that arrived before those of earlier blocks.
    pending: dict[int, DocumentBlock] = {}
    early: dict[int, _BlockResult] = {}
    tokens, width = 0, remote.anatomy.key_width

    def shards() -> Iterator[Shard]:
        for block in blocks:
            pending[block.number] = block
            arguments = (block.rows, layers, block.number == 0)
            yield Shard(block.number, "read", arguments, block.size, f"block {block.number}")

    def report() -> None:
        on_tokens(next((block.tokens for block in pending.values()), tokens))

    results = remote.pool.results(shards(), report, window=_window(len(layers), width), max_queued=2)
    for shard, result in results:
        early[shard.number] = _copy(result)
        while pending and (number := next(iter(pending))) in early:
            block = pending.pop(number)
            tokens = block.tokens + block.size
            yield block, _sums(early.pop(number), layers, width)


def _window(layers: int, width: int) -> int:
    free = psutil.virtual_memory().available // 4
    return max(_MIN_WINDOW, min(_MAX_WINDOW, free // (layers * 2 * width * width)))


def _copy(result: _BlockResult) -> _BlockResult:
    """Copy the sums out of Ray's object store, which then frees its memory."""
    triangles, keys = result
    return {layer: triangle.copy() for layer, triangle in triangles.items()}, keys


def _sums(result: _BlockResult, layers: Sequence[int], width: int) -> BlockSums:
    triangles, keys = result
    sums = {
        layer: torch.from_numpy(unpack_triangle(triangle, width)) for layer, triangle in triangles.items()
    }
    return BlockSums(sums, {layer: [torch.tensor(one) for one in keys.get(layer, [])] for layer in layers})
