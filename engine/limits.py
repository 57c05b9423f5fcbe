"""How much is run at once. Loads no torch, for what a job will cost is told before one starts."""

# Tokens (rows x positions) that a trace begins with. On a CPU larger batches are no faster; on a GPU this is where to
# begin looking.
CPU_TOKENS = 8_192
GPU_TOKENS = 262_144
# Of documents that are read for a second moment.
READING_TOKENS = 2_048


def search_tokens(device: str) -> int:
    """Tokens over the rows of several requests, in a search for values or a training, whose gradients are kept."""
    return 128 if device == "cpu" else 8_192
