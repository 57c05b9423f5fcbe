"""Memory of a device: batches that fit into it, and its peak use."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from .limits import CPU_TOKENS, GPU_TOKENS, scaled_batch

Item = TypeVar("Item")
Result = TypeVar("Result")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Budget:
    """The largest batch that a device has room for, in tokens (rows x positions).

    It starts at the limit of the process. Each time a batch runs out of memory, the budget is halved for good.
    """

    def __init__(self, device: torch.device, tokens: int | None = None) -> None:
        self.tokens = tokens or scaled_batch(GPU_TOKENS if device.type == "cuda" else CPU_TOKENS)
        self.halvings = 0

    def batches(
        self, items: Sequence[Item], tokens_per_item: int, work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[Result]:
        """Yield `work(batch)` for batches of items that fill the budget. A batch that runs out of memory is split.

        Raises:
            torch.OutOfMemoryError: a single item does not fit.
        """
        begin = 0
        while begin < len(items):
            batch = items[begin : begin + max(1, self.tokens // tokens_per_item)]
            try:
                result = work(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            else:
                begin += len(batch)
                yield result
                continue
            # Outside the except clause: the error no longer references the tensors of the failed batch.
            self.tokens = max(1, min(self.tokens, len(batch) * tokens_per_item) // 2)
            self.halvings += 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement that `peak_memory` reads. Does nothing where the system has no such counter."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        _CLEAR.write_text("5")  # proc(5): resets the high-water mark of the resident size


def peak_memory(device: torch.device) -> int | None:
    """Peak memory since `reset_peak_memory`, bytes: of the GPU, or of this process (including earlier allocations).

    None where the system has no such counter (no Linux and no CUDA).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
