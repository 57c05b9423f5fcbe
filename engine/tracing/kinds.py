"""The kinds of causal trace, by name, and the blocks that a window restores."""

from typing import Literal

from ..model.anatomy import Role

# hidden: one block's output. mlp, attn: that part's output over a window of blocks. severed-*: one block's output,
# while that part of the token stays what it was in the corrupted run.
Kind = Literal["hidden", "mlp", "attn", "severed-mlp", "severed-attn"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn")
SEVERED: dict[Kind, Role] = {"severed-mlp": "mlp", "severed-attn": "attn"}
WINDOWED: dict[Kind, Role] = {"mlp": "mlp", "attn": "attn"}

# A table of one kind: `[token][layer]`, None where nothing was traced (yet).
Scores = list[list[float | None]]


def window_of(layer: int, window: int, layers: int) -> tuple[int, int]:
    """The blocks `[first, stop)` that a window of so many layers around `layer` restores, as published."""
    return max(0, layer - window // 2), min(layers, layer - (-window // 2))
