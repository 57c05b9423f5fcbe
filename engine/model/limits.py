"""Default batch sizes, and the limit that shrinks them after a process has run out of memory. Imports no torch:
the cost of a job is estimated before a worker starts.
"""

from dataclasses import dataclass

# Tokens (rows x positions) of the first batch of a trace. Larger batches are no faster on a CPU.
CPU_TOKENS = 8_192
GPU_TOKENS = 262_144
# Tokens of one batch of documents, when second moments are collected.
READING_TOKENS = 2_048


@dataclass
class BatchLimit:
    """How often a process has halved its batches. A job that runs out of memory halves them and resumes."""

    halvings: int = 0
    max_halvings: int = 8

    def halve(self) -> bool:
        """Halve all later batches. Returns False after `max_halvings`: smaller batches do not help."""
        if self.halvings == self.max_halvings:
            return False
        self.halvings += 1
        return True


# The limit of this process. Only the worker halves it.
PROCESS_LIMIT = BatchLimit()


def scaled_batch(count: int) -> int:
    """A default batch size under the limit of this process, at least 1."""
    return max(1, count >> PROCESS_LIMIT.halvings)


def search_tokens(device: str) -> int:
    """Tokens of one batch in a value search or a training, which store gradients; for `cpu` or a GPU."""
    return scaled_batch(128 if device == "cpu" else 8_192)
