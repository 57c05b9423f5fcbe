"""Second moments of all layers in one pass: against one pass a layer as published, and against the least needed.

    make bench BENCH=covariance

`against_per_layer`: rome's layer_stats runs the model up to the layer, and adds one product, once for each layer. A
few layers, spread evenly, are timed and scaled to all; their mean depth is that of all layers.
`over_forward`: the least that is needed is one forward pass over the same batches and the bare products k.T @ k.
All variants take turns, and the fastest turn of each counts, so that other work on the machine hurts them alike.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retcon.engine.covariance.collect import CollectionSettings, CollectionState, collect, split_by_length
from retcon.engine.covariance.corpus import Corpus, open_corpus
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.tokens import pad_right

from .machine import starter

TOKENS, MAX_LENGTH, TURNS = 8_192, 512, 3
PUBLISHED_LAYERS = (2, 8, 14, 21, 27)  # mean 14.4; of layers 0 to 29 it is 14.5
CURVE_LAYER = 5

Batch = tuple[Tensor, Tensor]


def run() -> dict[str, Any]:
    """Ratios of times on the starter model, and the curve of the stopping rule on the shipped texts."""
    decoder, tokenizer = starter()
    corpus = open_corpus("shipped")
    texts = _just(corpus, tokenizer, TOKENS)
    rows = tokenizer(list(texts.documents(1)), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    batches = [pad_right(batch, decoder.device) for batch in split_by_length(rows)]
    layers = range(decoder.layers)

    def collected(layers: Sequence[int] = layers, texts: Corpus = texts) -> CollectionState:
        *_, last = collect(decoder, tokenizer, texts, layers, CollectionSettings(10**9, MAX_LENGTH))
        return last

    best = _best_of_turns(
        {"ours": collected, "least": lambda: _least(decoder, batches)}
        | {str(layer): lambda layer=layer: _published(decoder, batches, layer) for layer in PUBLISHED_LAYERS}
    )
    published = sum(best[str(layer)] for layer in PUBLISHED_LAYERS) / len(PUBLISHED_LAYERS) * decoder.layers
    curve = collected([CURVE_LAYER], corpus).moments[CURVE_LAYER].convergence.curve
    return {
        "covariance": {
            "tokens": sum(map(len, rows)),
            "against_per_layer": {
                "ratio": published / best["ours"],
                "seconds": published,
                "scaled_from_layers": ", ".join(map(str, PUBLISHED_LAYERS)),
            },
            "over_forward": {"ratio": best["ours"] / best["least"], "seconds": best["least"]},
            "seconds": best["ours"],
            "max_difference": _difference(decoder, batches, collected([CURVE_LAYER])),
            "curve": {str(point.tokens): point.mean for point in curve},
        }
    }


def _just(corpus: Corpus, tokenizer: Any, tokens: int) -> Corpus:
    """The first documents of a corpus, so many that they hold `tokens`, in the order in which they are read."""
    texts: list[str] = []
    for text in corpus.documents(1):
        texts.append(text)
        tokens -= len(tokenizer(text)["input_ids"])
        if tokens <= 0:
            break
    return Corpus("some shipped", corpus.revision, texts)


def _best_of_turns(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(TURNS):
        for name, work in variants.items():
            began = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


@torch.no_grad()
def _least(decoder: Decoder, batches: Sequence[Batch]) -> None:
    """One forward pass without the head, and the bare product at every layer."""
    body = decoder.model.base_model
    for ids, mask in batches:
        real = mask.bool()

        def product(_module: nn.Module, args: tuple, real: Tensor = real) -> None:
            k = args[0][real]
            _ = k.T @ k

        with _hooks(decoder, range(decoder.layers), product):
            body(input_ids=ids, attention_mask=mask, use_cache=False)


class _Reached(Exception):
    """The layer that was wanted has its keys."""


@torch.no_grad()
def _published(decoder: Decoder, batches: Sequence[Batch], layer: int) -> Tensor:
    """The sum of k k^T at one layer as rome's layer_stats makes it: float32, a pass that stops at the layer."""
    width = decoder.anatomy.key_width
    total = torch.zeros(width, width)
    for ids, mask in batches:
        real = mask.bool()

        def product(_module: nn.Module, args: tuple, real: Tensor = real) -> None:
            k = args[0][real]
            total.add_(k.T @ k)
            raise _Reached

        with _hooks(decoder, [layer], product):
            try:
                decoder.model(input_ids=ids, attention_mask=mask)
            except _Reached:
                continue
    return total


@contextmanager
def _hooks(decoder: Decoder, layers: Sequence[int], hook: Callable[..., None]) -> Iterator[None]:
    handles = [decoder.part("matrix", layer).register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _difference(decoder: Decoder, batches: Sequence[Batch], collected: CollectionState) -> float:
    """How far the two are apart, relative to the norm."""
    total = _published(decoder, batches, CURVE_LAYER).double() / collected.tokens
    return ((collected.moments[CURVE_LAYER].matrix() - total).norm() / total.norm()).item()
