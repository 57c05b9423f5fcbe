"""Second moments of all layers in one pass, compared with one pass per layer and with the least computation.

    TOKENS=8192 make bench BENCH=covariance

`against_per_layer`: the published layer_stats of rome runs the model up to a layer and adds one product, once per
layer. A few evenly spread layers are timed and scaled to all layers; their mean depth is the mean of all layers.
`over_forward`: the least computation is one forward pass over the same batches, and the bare products k.T @ k.
The variants run in turns, and the fastest turn of each counts, so other work on the machine affects all alike.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retcon.engine.covariance.collect import CollectionSettings, CollectionState, collect, split_by_length
from retcon.engine.covariance.corpus import Corpus, open_corpus
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import pad_right

from .machine import load_starter, time_call

TOKENS, MAX_LENGTH, TURNS = int(os.environ.get("TOKENS", "8192")), 512, 3
PUBLISHED_LAYERS = (2, 8, 14, 21, 27)  # Their mean is 14.4, the mean of layers 0 to 29 is 14.5.
CURVE_LAYER = 5

Batch = tuple[Tensor, Tensor]


def run() -> dict[str, Any]:
    """Ratios of times on the starter model, and the convergence curve on the shipped texts."""
    decoder, tokenizer = load_starter()
    corpus = open_corpus("shipped")
    texts = _take_documents(corpus, tokenizer, TOKENS)
    rows = tokenizer(list(texts.documents(1)), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    batches = [pad_right(batch, decoder.device) for batch in split_by_length(rows)]
    layers = range(decoder.layers)

    def collect_layers(layers: Sequence[int] = layers, texts: Corpus = texts) -> CollectionState:
        *_, last = collect(decoder, tokenizer, texts, layers, CollectionSettings(10**9, MAX_LENGTH))
        return last

    best = _time_in_turns(
        {"collect": collect_layers, "least": lambda: _run_least(decoder, batches)}
        | {
            str(layer): lambda layer=layer: _collect_as_published(decoder, batches, layer)
            for layer in PUBLISHED_LAYERS
        }
    )
    published = sum(best[str(layer)] for layer in PUBLISHED_LAYERS) / len(PUBLISHED_LAYERS) * decoder.layers
    curve = collect_layers([CURVE_LAYER], corpus).moments[CURVE_LAYER].convergence.curve
    return {
        "covariance": {
            "tokens": sum(map(len, rows)),
            "against_per_layer": {
                "ratio": published / best["collect"],
                "seconds": published,
                "scaled_from_layers": ", ".join(map(str, PUBLISHED_LAYERS)),
            },
            "over_forward": {"ratio": best["collect"] / best["least"], "seconds": best["least"]},
            "seconds": best["collect"],
            "max_difference": _relative_difference(decoder, batches, collect_layers([CURVE_LAYER])),
            "curve": {str(point.tokens): point.mean for point in curve},
        }
    }


def _take_documents(corpus: Corpus, tokenizer: Any, tokens: int) -> Corpus:
    """The first documents of a corpus, in reading order, that have at least `tokens` tokens together."""
    texts: list[str] = []
    for text in corpus.documents(1):
        texts.append(text)
        tokens -= len(tokenizer(text)["input_ids"])
        if tokens <= 0:
            break
    return Corpus("part of shipped", corpus.revision, texts)


def _time_in_turns(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(TURNS):
        for name, function in variants.items():
            best[name] = min(best[name], time_call(function)[0])
    return best


@torch.no_grad()
def _run_least(decoder: Decoder, batches: Sequence[Batch]) -> None:
    """One forward pass without the head, and the bare product at each layer."""
    body = decoder.model.base_model
    for ids, mask in batches:
        is_token = mask.bool()

        def add_product(_module: nn.Module, args: tuple, is_token: Tensor = is_token) -> None:
            k = args[0][is_token]
            _ = k.T @ k

        with _register_hooks(decoder, range(decoder.layers), add_product):
            body(input_ids=ids, attention_mask=mask, use_cache=False)


class _LayerReached(Exception):
    """The forward pass has reached the layer."""


@torch.no_grad()
def _collect_as_published(decoder: Decoder, batches: Sequence[Batch], layer: int) -> Tensor:
    """The sum of k k^T at one layer, as the layer_stats of rome: float32, a pass that stops at the layer."""
    width = decoder.anatomy.key_width
    total = torch.zeros(width, width)
    for ids, mask in batches:
        is_token = mask.bool()

        def add_product(_module: nn.Module, args: tuple, is_token: Tensor = is_token) -> None:
            k = args[0][is_token]
            total.add_(k.T @ k)
            raise _LayerReached

        with _register_hooks(decoder, [layer], add_product):
            try:
                decoder.model(input_ids=ids, attention_mask=mask)
            except _LayerReached:
                continue
    return total


@contextmanager
def _register_hooks(decoder: Decoder, layers: Sequence[int], hook: Callable[..., None]) -> Iterator[None]:
    handles = [decoder.part("matrix", layer).register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _relative_difference(decoder: Decoder, batches: Sequence[Batch], state: CollectionState) -> float:
    """The norm of the difference to the published sum, relative to its norm."""
    published = _collect_as_published(decoder, batches, CURVE_LAYER).double() / state.tokens
    return ((state.moments[CURVE_LAYER].matrix() - published).norm() / published.norm()).item()
