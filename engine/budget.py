"""How many tokens to run at once: found, not guessed. Out of memory halves it, for good, and goes on."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")

# On a CPU larger batches are no faster. On a GPU this is where to begin looking.
_CPU_TOKENS = 8_192
_GPU_TOKENS = 262_144


class Budget:
    """The largest batch so far that a device did not refuse, in tokens (rows x positions)."""

    def __init__(self, device: torch.device, tokens: int | None = None) -> None:
        self.tokens = tokens or (_GPU_TOKENS if device.type == "cuda" else _CPU_TOKENS)
        self.halved = 0

    def halving(
        self, parts: Sequence[Part], work: Callable[[Sequence[Part]], dict[Any, Any]]
    ) -> dict[Any, Any]:
        """`work(parts)`; where memory runs out, of each half by itself, and later batches are half as large.

        Raises:
            torch.OutOfMemoryError: a single part does not fit.
        """
        try:
            return work(parts)
        except torch.OutOfMemoryError:
            if len(parts) == 1:
                raise
        self.tokens, self.halved = max(1, self.tokens // 2), self.halved + 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(parts) // 2
        return self.halving(parts[:half], work) | self.halving(parts[half:], work)
