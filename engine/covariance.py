"""The second moment of keys, C = E[k k^T] (users say covariance): ROME's and MEMIT's measure of what not to disturb.

Uncentred, over every real token of some text, divided by the tokens. All wanted layers in one pass that stops at the
deepest. Products and their sum over a block of documents in float32, sums over blocks in float64.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .corpus import Corpus
from .decoder import Decoder
from .errors import InputError
from .limits import READING_TOKENS, fitting
from .progress import Progress, Report, silent
from .settling import Settling
from .tokens import right_padded

# One block is what a checkpoint follows: so many documents, whatever the batch size.
_BLOCK_DOCUMENTS = 64


@dataclass
class SecondMoment:
    """Sum of k k^T, float64 `[key_width, key_width]` on the CPU, over `tokens` keys.

    Rounding makes the two triangles of `total` differ in their last bits; only the upper one counts and is kept.
    """

    total: Tensor
    tokens: int
    settling: Settling

    def matrix(self) -> Tensor:
        """C, float64 `[key_width, key_width]`, symmetric to the bit."""
        return (self.total.triu() + self.total.triu(1).T) / self.tokens


@dataclass(frozen=True)
class Collected:
    """The moments of the wanted layers after some blocks of a corpus.

    Where `max_tokens` fell into the last block, `whole` is the state before that block: a collection of more tokens
    goes on from there and gives the same bits as one that never stopped.
    """

    moments: dict[int, SecondMoment]
    blocks: int
    documents: int
    finished: bool
    whole: "Collected | None" = None

    @property
    def tokens(self) -> int:
        """How many keys every layer has seen."""
        return next(iter(self.moments.values())).tokens


def collect(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    max_tokens: int,
    max_length: int,
    seed: int = 1,
    tolerance: float | None = None,
    start: Collected | None = None,
    report: Report = silent,
) -> Iterator[Collected]:
    """Collect the moments of `layers`, yielding after each block of documents; the last is `finished`.

    It ends when the texts do, at `max_tokens` exactly (the last document is cut), or when the last doubling of the
    tokens turned the solves at every layer by `tolerance` or less. Documents are cut at `max_length` tokens. Going on
    from an earlier yield (`start`) gives the same bits, curve and end as never having stopped.

    Raises:
        InputError: a layer that the model does not have, or texts without a token.
    """
    for layer in layers:
        if not 0 <= layer < decoder.layers:
            raise InputError(f"there is no layer {layer}; this model has layers 0 to {decoder.layers - 1}")
    state = start or Collected(_nothing(decoder, layers), 0, 0, finished=False)
    documents = islice(corpus.documents(seed), state.documents, None)
    doing = f"reading {corpus.source}, {_span(layers)}"
    while not state.finished:
        texts = list(islice(documents, _BLOCK_DOCUMENTS))
        rows = _tokenised(tokenizer, texts, max_length)
        left = max_tokens - state.tokens
        cut = sum(map(len, rows)) > left
        whole = copy.deepcopy(state) if cut else None
        if cut:
            rows = _cut(rows, left)
        total = _expected(corpus, state, max_tokens)
        for done in _add(decoder, rows, state):
            report(Progress(done, total, "tokens", doing))
        if state.tokens == 0:
            raise InputError(f"{corpus.source} holds no text that this tokenizer makes tokens of")
        if not cut:
            _look(state)
        settled = tolerance is not None and all(m.settling.settled(tolerance) for m in state.moments.values())
        ended = cut or settled or state.tokens == max_tokens or len(texts) < _BLOCK_DOCUMENTS
        state = Collected(state.moments, state.blocks + 1, state.documents + len(rows), ended, whole)
        report(Progress(state.tokens, total, "tokens", "block done"))
        yield state


def _nothing(decoder: Decoder, layers: Sequence[int]) -> dict[int, SecondMoment]:
    size = decoder.anatomy.key_width
    empty = torch.zeros(size, 0, dtype=torch.float64)
    return {
        layer: SecondMoment(torch.zeros(size, size, dtype=torch.float64), 0, Settling(empty))
        for layer in layers
    }


def _expected(corpus: Corpus, state: Collected, max_tokens: int) -> int:
    """How many tokens it will be: the limit, or what the documents seen so far lead one to expect of all."""
    if corpus.size is None or state.documents == 0:
        return max_tokens
    return min(max_tokens, round(state.tokens / state.documents * corpus.size))


def _span(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return "layers " + (", ".join(map(str, layers)) if len(layers) < 4 else f"{min(layers)}-{max(layers)}")


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list[list[int]]:
    """Token rows of some documents, none longer than `max_length`; a row may be empty."""
    return tokenizer(texts, truncation=True, max_length=max_length)["input_ids"] if texts else []


def _cut(rows: list[list[int]], wanted: int) -> list[list[int]]:
    """The first rows, `wanted` tokens in all."""
    kept = []
    for row in rows:
        if wanted == 0:
            break
        kept.append(row[:wanted])
        wanted -= len(kept[-1])
    return kept


def _batches(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    """Rows of like length together, so that little is spent on padding."""
    batch: list[list[int]] = []
    for row in sorted(filter(None, rows), key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > fitting(READING_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _add(decoder: Decoder, rows: list[list[int]], state: Collected) -> Iterator[int]:
    """Add the keys of a block of documents to the moments; yields before each batch how many tokens there are."""
    block = _Block({}, {layer: [] for layer in state.moments})
    tokens = state.tokens
    for batch in _batches(rows):
        yield tokens
        block.read(decoder, batch)
        tokens += sum(map(len, batch))
    for layer, moment in state.moments.items():
        if layer in block.sums:
            moment.total += block.sums[layer].cpu()
            if state.blocks == 0:
                moment.settling.probes = torch.cat(block.middles[layer]).T.contiguous()
        moment.tokens = tokens


@dataclass
class _Block:
    """By layer, the float32 sum of k k^T over some documents, where they were run, and one key of each.

    That is the one in its middle: a document's first and last tokens are not typical.
    """

    sums: dict[int, Tensor]
    middles: dict[int, list[Tensor]]

    def read(self, decoder: Decoder, batch: list[list[int]]) -> None:
        ids, mask = right_padded(batch, decoder.device)
        real = mask.flatten().nonzero().squeeze(1)
        documents, middle = torch.arange(len(batch)), torch.tensor([len(row) // 2 for row in batch])

        def on_key(layer: int, keys: Tensor) -> None:
            if layer not in self.middles:
                return
            k = keys.flatten(0, 1).index_select(0, real).float()
            if layer in self.sums:
                self.sums[layer].addmm_(k.T, k)
            else:
                self.sums[layer] = k.T @ k
            self.middles[layer].append(keys[documents, middle].double().cpu())

        decoder.run(ids, mask, on_key=on_key, stop_after=max(self.middles), resumable=False)


def _look(state: Collected) -> None:
    for moment in state.moments.values():
        if moment.settling.due(moment.tokens):
            moment.settling.look(moment.total, moment.tokens)
