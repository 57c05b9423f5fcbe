"""Keys of requests at several layers, and what stands at their subjects, read in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.limits import scaled_batch
from ..model.tokens import pad_aligned
from .request import Request

_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class Read:
    """`keys[layer]` `[requests, key_width]` averaged over contexts; `states[layer]` `[requests, width]`, what the block
    puts out for the bare prompts. Float64, at the subjects' last tokens."""

    keys: dict[int, Tensor]
    states: dict[int, Tensor]


def read_keys(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    layers: Sequence[int],
    contexts: Sequence[str],
) -> Read:
    """Keys at each of the layers, in one pass that stops at the deepest.

    The published average has two levels (memit, compute_ks): over the contexts of one kind, then over the kinds. The
    bare prompt is a kind by itself, so it weighs as much as all other contexts together.
    """
    per_request = len(contexts)
    rows: list[list[int]] = []
    at: list[int] = []
    for request in requests:
        for context in contexts:
            located = request.located(tokenizer, context)
            rows.append(located.ids[: located.end])  # nothing right of the subject reaches its key
            at.append(located.last)
    size, width = decoder.anatomy.key_width, decoder.anatomy.width
    device = decoder.device
    keys = {layer: [torch.zeros(0, size, dtype=torch.float64, device=device)] for layer in layers}
    states = {layer: [torch.zeros(0, width, dtype=torch.float64, device=device)] for layer in layers}
    at_once = scaled_batch(_ROWS_AT_ONCE)
    for begin in range(0, len(rows), at_once):
        ids, mask = pad_aligned(rows[begin : begin + at_once], at[begin : begin + at_once], decoder.device)

        def on_key(layer: int, entering: Tensor) -> None:
            if layer in keys:
                keys[layer].append(entering[:, -1].double())

        run = decoder.run(ids, mask, on_key=on_key, stop_after=max(layers))
        for layer in layers:
            states[layer].append(run.states[layer + 1][:, -1].double())
    return Read(
        {layer: _average(torch.cat(found), per_request) for layer, found in keys.items()},
        {layer: torch.cat(found)[::per_request] for layer, found in states.items()},
    )


def _average(keys: Tensor, per_request: int) -> Tensor:
    """`[requests * contexts, d]` -> `[requests, d]`."""
    keys = keys.view(-1, per_request, keys.shape[-1])
    bare, others = keys[:, 0], keys[:, 1:]
    return (bare + others.mean(1)) / 2 if per_request > 1 else bare
