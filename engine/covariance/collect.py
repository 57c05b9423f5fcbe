"""The second moment of keys, C = E[k k^T] (users say covariance): ROME's and MEMIT's measure of what not to disturb.

Uncentered, over every real token of some text, divided by the tokens. All wanted layers in one pass that stops at the
deepest. Products and their sum over a block of documents in float32, sums over blocks in float64.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.anatomy import Anatomy
from ..model.decoder import Decoder
from ..model.limits import READING_TOKENS, scaled_batch
from ..model.tokens import pad_right
from ..progress import Progress, Report, silent
from .convergence import Convergence
from .corpus import Corpus

# One block is what a checkpoint follows: so many documents, whatever the batch size.
_BLOCK_DOCUMENTS = 64


@dataclass
class SecondMoment:
    """Sum of k k^T, float64 `[key_width, key_width]` on the CPU, over `tokens` keys.

    Rounding makes the two triangles of `total` differ in their last bits; only the upper one counts and is kept.
    """

    total: Tensor
    tokens: int
    convergence: Convergence

    def matrix(self) -> Tensor:
        """C, float64 `[key_width, key_width]`, symmetric to the bit."""
        return (self.total.triu() + self.total.triu(1).T) / self.tokens


@dataclass(frozen=True)
class CollectionState:
    """The moments of the wanted layers after some blocks of a corpus.

    If `max_tokens` cut the last block, `before_cut` is the state before that block. A collection of more tokens resumes
    from there and gives the same bits as an uninterrupted one.
    """

    moments: dict[int, SecondMoment]
    blocks: int
    documents: int
    finished: bool
    before_cut: "CollectionState | None" = None

    @property
    def tokens(self) -> int:
        """How many keys every layer has seen."""
        return next(iter(self.moments.values())).tokens


@dataclass(frozen=True)
class DocumentBlock:
    """Documents that are read together: rows of token ids, some empty. `tokens` were read in the blocks before it."""

    number: int
    rows: list[list[int]]
    tokens: int
    # The most tokens that are wanted fell into it; none comes after it, whatever has settled by then.
    cut: bool
    last: bool

    @property
    def size(self) -> int:
        """Tokens of its own."""
        return sum(map(len, self.rows))


@dataclass
class BlockSums:
    """By layer, the float32 sum of k k^T over some documents, where they were run, and one key of each.

    That is the one in its middle: a document's first and last tokens are not typical. Without tokens there is no sum.
    """

    sums: dict[int, Tensor]
    middles: dict[int, list[Tensor]]


# Reads blocks at some layers and yields what they sum up to, in their order. It may take more blocks than it has
# yielded. It calls its last argument now and then with how many tokens have been read; that may raise to stop.
BlockReader = Callable[
    [Iterator[DocumentBlock], Sequence[int], Callable[[int], None]], Iterator[tuple[DocumentBlock, BlockSums]]
]


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
    start: CollectionState | None = None,
    report: Report = silent,
) -> Iterator[CollectionState]:
    """`collect_with` a model in this process."""
    return collect_with(
        partial(read_in_process, decoder),
        decoder.anatomy,
        tokenizer,
        corpus,
        layers,
        max_tokens=max_tokens,
        max_length=max_length,
        seed=seed,
        tolerance=tolerance,
        start=start,
        report=report,
    )


def collect_with(
    read: BlockReader,
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    max_tokens: int,
    max_length: int,
    seed: int = 1,
    tolerance: float | None = None,
    start: CollectionState | None = None,
    report: Report = silent,
) -> Iterator[CollectionState]:
    """Collect the moments of `layers`, yielding after each block of documents; the last is `finished`.

    It ends when the texts do, at `max_tokens` exactly (the last document is cut), or when the last doubling of the
    tokens turned the solves at every layer by `tolerance` or less. Documents are cut at `max_length` tokens. Going on
    from an earlier yield (`start`) gives the same bits, curve and end as never having stopped; and so does any `read`,
    for the blocks are the same and are added up in their order.

    Raises:
        InputError: a layer that the model does not have, or texts without a token.
    """
    for layer in layers:
        if not 0 <= layer < anatomy.layers:
            raise InputError(f"there is no layer {layer}; this model has layers 0 to {anatomy.layers - 1}")
    state = start or CollectionState(_nothing(anatomy, layers), 0, 0, finished=False)
    total = _expected(corpus, state, max_tokens)
    doing = f"reading {corpus.source}, {_span(layers)}"

    def on_tokens(done: int) -> None:
        report(Progress(done, total, "tokens", doing))

    blocks = _blocks(tokenizer, corpus, state, max_tokens, max_length, seed)
    for block, sums in read(blocks, layers, on_tokens):
        before_cut = copy.deepcopy(state) if block.cut else None
        _add(block, sums, state)
        if state.tokens == 0:
            raise InputError(f"{corpus.source} holds no text that this tokenizer makes tokens of")
        if not block.cut:
            _look(state)
        settled = tolerance is not None and all(
            m.convergence.has_converged(tolerance) for m in state.moments.values()
        )
        documents = state.documents + len(block.rows)
        state = CollectionState(state.moments, state.blocks + 1, documents, block.last or settled, before_cut)
        report(Progress(state.tokens, total, "tokens", doing))
        total = _expected(corpus, state, max_tokens)
        yield state
        if state.finished:
            return


def _blocks(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    start: CollectionState,
    max_tokens: int,
    max_length: int,
    seed: int,
) -> Iterator[DocumentBlock]:
    """The blocks that follow a state, which is left as it is. Nothing of them depends on what reading them gives."""
    documents = islice(corpus.documents(seed), start.documents, None)
    tokens = start.tokens
    for number in count(start.blocks):
        texts = list(islice(documents, _BLOCK_DOCUMENTS))
        rows = _tokenized(tokenizer, texts, max_length)
        left = max_tokens - tokens
        cut = sum(map(len, rows)) > left
        if cut:
            rows = _cut(rows, left)
        size = sum(map(len, rows))
        last = cut or size == left or len(texts) < _BLOCK_DOCUMENTS
        yield DocumentBlock(number, rows, tokens, cut, last)
        if last:
            return
        tokens += size


def _nothing(anatomy: Anatomy, layers: Sequence[int]) -> dict[int, SecondMoment]:
    size = anatomy.key_width
    empty = torch.zeros(size, 0, dtype=torch.float64)
    return {
        layer: SecondMoment(torch.zeros(size, size, dtype=torch.float64), 0, Convergence(empty))
        for layer in layers
    }


def _expected(corpus: Corpus, state: CollectionState, max_tokens: int) -> int:
    """How many tokens it will be: the limit, or what the documents seen so far lead one to expect of all."""
    if corpus.size is None or state.documents == 0:
        return max_tokens
    return min(max_tokens, round(state.tokens / state.documents * corpus.size))


def _span(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return "layers " + (", ".join(map(str, layers)) if len(layers) < 4 else f"{min(layers)}-{max(layers)}")


def _tokenized(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list[list[int]]:
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
        if batch and (len(batch) + 1) * len(batch[0]) > scaled_batch(READING_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _add(block: DocumentBlock, sums: BlockSums, state: CollectionState) -> None:
    """Add the sums of the block that comes next to the moments."""
    for layer, moment in state.moments.items():
        if layer in sums.sums:
            moment.total += sums.sums[layer].cpu()
            if state.blocks == 0:
                moment.convergence.probes = torch.cat(sums.middles[layer]).T.contiguous()
        moment.tokens = block.tokens + block.size


def read_in_process(
    decoder: Decoder, blocks: Iterator[DocumentBlock], layers: Sequence[int], on_tokens: Callable[[int], None]
) -> Iterator[tuple[DocumentBlock, BlockSums]]:
    """The `BlockReader` that runs one block after another in this process."""
    for block in blocks:
        yield block, read_block(decoder, block.rows, layers, partial(_told, on_tokens, block.tokens))


def _told(on_tokens: Callable[[int], None], before: int, done: int) -> None:
    on_tokens(before + done)


def read_block(
    decoder: Decoder,
    rows: list[list[int]],
    layers: Sequence[int],
    on_tokens: Callable[[int], None] = lambda _done: None,
) -> BlockSums:
    """What one block sums up to: the bits do not depend on who asks, or on what was read before.

    `on_tokens` is called before each batch with how many tokens of the block have been read; it may raise to stop.
    """
    sums, done = BlockSums({}, {layer: [] for layer in layers}), 0
    for batch in _batches(rows):
        on_tokens(done)
        _read_batch(decoder, batch, sums)
        done += sum(map(len, batch))
    return sums


def _read_batch(decoder: Decoder, batch: list[list[int]], into: BlockSums) -> None:
    """Run some rows and add their keys to the sums of the layers in `into`."""
    ids, mask = pad_right(batch, decoder.device)
    real = mask.flatten().nonzero().squeeze(1)
    documents, middle = torch.arange(len(batch)), torch.tensor([len(row) // 2 for row in batch])

    def on_key(layer: int, keys: Tensor) -> None:
        if layer not in into.middles:
            return
        k = keys.flatten(0, 1).index_select(0, real).float()
        if layer in into.sums:
            into.sums[layer].addmm_(k.T, k)
        else:
            into.sums[layer] = k.T @ k
        into.middles[layer].append(keys[documents, middle].double().cpu())

    decoder.run(ids, mask, on_key=on_key, stop_after=max(into.middles), resumable=False)


def _look(state: CollectionState) -> None:
    for moment in state.moments.values():
        if moment.convergence.due(moment.tokens):
            moment.convergence.look(moment.total, moment.tokens)
