"""How many tokens to run at once: found, not guessed. Out of memory halves it, for good, and goes on."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from .limits import CPU_TOKENS, GPU_TOKENS, fitting

Part = TypeVar("Part")
Result = TypeVar("Result")


class Budget:
    """The largest batch so far that a device did not refuse, in tokens (rows x positions)."""

    def __init__(self, device: torch.device, tokens: int | None = None) -> None:
        self.tokens = tokens or fitting(GPU_TOKENS if device.type == "cuda" else CPU_TOKENS)
        self.halved = 0

    def batches(
        self, parts: Sequence[Part], each: int, work: Callable[[Sequence[Part]], Result]
    ) -> Iterator[Result]:
        """`work` on so many parts of `each` tokens at once as fit; where memory runs out, on half as many from there.

        Raises:
            torch.OutOfMemoryError: a single part does not fit.
        """
        begin = 0
        while begin < len(parts):
            batch = parts[begin : begin + max(1, self.tokens // each)]
            try:
                result = work(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            else:
                begin += len(batch)
                yield result
                continue
            # Outside the except clause, where the error no longer holds on to what was in memory.
            self.tokens, self.halved = max(1, min(self.tokens, len(batch) * each) // 2), self.halved + 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
