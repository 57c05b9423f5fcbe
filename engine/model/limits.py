"""How much is run at once. Loads no torch, for what a job will cost is told before one starts."""

from dataclasses import dataclass

# Tokens (rows x positions) that a trace begins with. On a CPU larger batches are no faster; on a GPU this is where to
# begin looking.
CPU_TOKENS = 8_192
GPU_TOKENS = 262_144
# Of documents that are read for a second moment.
READING_TOKENS = 2_048

_MOST_HALVED = 8


@dataclass
class _Memory:
    """What this process has learnt about its memory: how often half as much was asked of it."""

    halved: int = 0


_memory = _Memory()


def fitting(count: int) -> int:
    """So many of what would be run at once as fit into this process's memory, as far as is known."""
    return max(1, count >> _memory.halved)


def halve() -> bool:
    """Memory has run out: from now on half as much at once. False if that has not helped often enough."""
    if _memory.halved == _MOST_HALVED:
        return False
    _memory.halved += 1
    return True


def search_tokens(device: str) -> int:
    """Tokens over the rows of several requests, in a search for values or a training, whose gradients are kept."""
    return fitting(128 if device == "cpu" else 8_192)
