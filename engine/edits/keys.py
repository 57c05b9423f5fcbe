"""Read the keys of requests at several layers, and the block outputs at their subjects, in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.limits import scaled_batch
from ..model.tokens import pad_aligned
from .method import Request

_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class KeysAndStates:
    """Float64, at the subjects' last tokens.

    `keys[layer]` `[requests, key_width]` are averages over the contexts. `states[layer]` `[requests, width]` are the
    block outputs of the bare prompts.
    """

    keys: dict[int, Tensor]
    states: dict[int, Tensor]


def read_keys(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    layers: Sequence[int],
    contexts: Sequence[str],
) -> KeysAndStates:
    """Read keys and states at each layer, in one pass that stops at the deepest layer.

    The published average has two levels (memit, compute_ks): over the contexts of one kind, then over the kinds. The
    bare prompt is a kind by itself, so it weighs as much as all other contexts together.
    """
    per_request = len(contexts)
    rows: list[list[int]] = []
    ends: list[int] = []
    for request in requests:
        for context in contexts:
            located = request.locate(tokenizer, context)
            rows.append(located.ids[: located.end])  # tokens after the subject do not change its key
            ends.append(located.last)
    key_width, width = decoder.anatomy.key_width, decoder.anatomy.width
    device = decoder.device
    keys = {layer: [torch.zeros(0, key_width, dtype=torch.float64, device=device)] for layer in layers}
    states = {layer: [torch.zeros(0, width, dtype=torch.float64, device=device)] for layer in layers}
    at_once = scaled_batch(_ROWS_AT_ONCE)
    for begin in range(0, len(rows), at_once):
        ids, mask = pad_aligned(rows[begin : begin + at_once], ends[begin : begin + at_once], decoder.device)

        def on_key(layer: int, key: Tensor) -> None:
            if layer in keys:
                keys[layer].append(key[:, -1].double())

        run = decoder.run(ids, mask, on_key=on_key, stop_after=max(layers))
        for layer in layers:
            states[layer].append(run.states[layer + 1][:, -1].double())
    return KeysAndStates(
        {layer: _average_contexts(torch.cat(parts), per_request) for layer, parts in keys.items()},
        {layer: torch.cat(parts)[::per_request] for layer, parts in states.items()},
    )


def _average_contexts(keys: Tensor, per_request: int) -> Tensor:
    """`[requests * contexts, d]` -> `[requests, d]`."""
    keys = keys.view(-1, per_request, keys.shape[-1])
    bare, others = keys[:, 0], keys[:, 1:]
    return (bare + others.mean(1)) / 2 if per_request > 1 else bare
