"""The second moment of keys, C = E[k k^T] (users say covariance): ROME's and MEMIT's measure of what not to disturb.

Uncentred, over every real token of some text, divided by the tokens. Products in the model's precision or float32,
sums in float64; all wanted layers in one pass that stops at the deepest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .corpus import Corpus
from .decoder import Decoder
from .errors import InputError
from .progress import Progress, Report, silent
from .tokens import right_padded

# One block is what a checkpoint follows: so many documents, whatever the batch size.
_BLOCK_DOCUMENTS = 64
_TOKENS_AT_ONCE = 2_048


@dataclass
class SecondMoment:
    """Sum of k k^T, float64 `[key_width, key_width]` on the CPU, over `tokens` keys."""

    total: Tensor
    tokens: int

    def matrix(self) -> Tensor:
        """C, float64 `[key_width, key_width]`."""
        return self.total / self.tokens


@dataclass(frozen=True)
class Collected:
    """The moments of the wanted layers after some whole blocks of a corpus."""

    moments: dict[int, SecondMoment]
    blocks: int
    documents: int
    finished: bool


def collect(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    max_tokens: int,
    max_length: int,
    seed: int = 1,
    start: Collected | None = None,
    report: Report = silent,
) -> Iterator[Collected]:
    """Collect the moments of `layers`, yielding after each block of documents; the last is `finished`.

    Going on from an earlier yield (`start`) gives the same bits as never having stopped. Documents are cut at
    `max_length` tokens, the last one so that `max_tokens` is met exactly.

    Raises:
        InputError: a layer that the model does not have.
    """
    for layer in layers:
        if not 0 <= layer < decoder.layers:
            raise InputError(f"there is no layer {layer}; this model has layers 0 to {decoder.layers - 1}")
    size = decoder.anatomy.key_width
    moments = {layer: SecondMoment(torch.zeros(size, size, dtype=torch.float64), 0) for layer in layers}
    state = start or Collected(moments, 0, 0, finished=False)
    moments = state.moments
    tokens = next(iter(moments.values())).tokens
    documents = islice(corpus.documents(seed), state.documents, None)
    blocks, seen = state.blocks, state.documents
    while True:
        texts = list(islice(documents, _BLOCK_DOCUMENTS))
        rows = _cut(tokenizer, texts, max_length, max_tokens - tokens)
        total = _expected(corpus, seen, tokens, max_tokens)
        for batch in _batches(rows):
            report(Progress(tokens, total, "tokens", f"reading {corpus.source}, layers {_span(layers)}"))
            _add(decoder, batch, moments)
            tokens += sum(len(row) for row in batch)
        seen += len(texts)
        blocks += 1
        finished = tokens >= max_tokens or len(texts) < _BLOCK_DOCUMENTS
        for moment in moments.values():
            moment.tokens = tokens
        report(Progress(tokens, total, "tokens", "block done"))
        if tokens == 0:
            raise InputError(f"{corpus.source} holds no text that this tokenizer makes tokens of")
        yield Collected(moments, blocks, seen, finished)
        if finished:
            return


def _expected(corpus: Corpus, seen: int, tokens: int, max_tokens: int) -> int:
    """How many tokens it will be: the limit, or what the documents seen so far lead one to expect of all."""
    if corpus.size is None or seen == 0:
        return max_tokens
    return min(max_tokens, round(tokens / seen * corpus.size))


def _span(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) if len(layers) < 4 else f"{min(layers)}-{max(layers)}"


def _cut(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, wanted: int
) -> list[list[int]]:
    """Token rows of some documents, none longer than `max_length`, `wanted` tokens in all at most."""
    rows = []
    for ids in tokenizer(texts, truncation=True, max_length=max_length)["input_ids"] if texts else []:
        row = list(ids[:wanted])
        wanted -= len(row)
        if row:
            rows.append(row)
    return rows


def _batches(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    """Rows of like length together, so that little is spent on padding."""
    batch: list[list[int]] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _add(decoder: Decoder, batch: list[list[int]], moments: dict[int, SecondMoment]) -> None:
    ids, mask = right_padded(batch, decoder.device)
    real = mask.bool()

    def on_key(layer: int, keys: Tensor) -> None:
        if layer in moments:
            k = keys[real].float()
            moments[layer].total += (k.T @ k).double().cpu()

    decoder.run(ids, mask, on_key=on_key, stop_after=max(moments), resumable=False)
