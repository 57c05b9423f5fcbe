"""Collect the second moment of keys, C = E[k k^T] (displayed as "covariance"), for ROME and MEMIT.

Uncentered, over all real tokens of some texts, divided by the number of tokens. One pass reads all requested layers and
stops at the deepest. Sums over a block of documents are float32, sums over blocks are float64.

    *_, state = collect(decoder, tokenizer, open_corpus("shipped"), [5], CollectionSettings(100_000))
    state.moments[5].matrix()  # C of layer 5
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

# Documents per block. A checkpoint is saved after whole blocks, whatever the batch size.
BLOCK_DOCUMENTS = 64


@dataclass(frozen=True)
class CollectionSettings:
    """How much text to read. Documents are truncated to `max_length` tokens; `seed` shuffles them.

    With a `tolerance`, the collection ends when C has converged to it (see `Convergence`).
    """

    max_tokens: int
    max_length: int = 512
    seed: int = 1
    tolerance: float | None = None


@dataclass
class SecondMoment:
    """Sum of k k^T over `tokens` keys, float64 `[key_width, key_width]` on the CPU.

    Only the upper triangle of `total` counts and is saved: by rounding, the lower one differs in the last bits.
    """

    total: Tensor
    tokens: int
    convergence: Convergence

    def matrix(self) -> Tensor:
        """C, float64 `[key_width, key_width]`, exactly symmetric."""
        return (self.total.triu() + self.total.triu(1).T) / self.tokens


@dataclass(frozen=True)
class CollectionState:
    """The moments by layer after some blocks of a corpus.

    If `max_tokens` cut the last block, `before_cut` is the state before that block. A collection of more tokens resumes
    from there and gives the same bits as an uninterrupted one.
    """

    moments: dict[int, SecondMoment]
    blocks: int
    documents: int
    is_finished: bool
    before_cut: "CollectionState | None" = None

    @property
    def tokens(self) -> int:
        """Number of keys per layer."""
        return next(iter(self.moments.values())).tokens


@dataclass(frozen=True)
class DocumentBlock:
    """Documents that are read together, as rows of token ids; a row may be empty."""

    number: int
    rows: list[list[int]]
    # Tokens of the blocks before this one.
    tokens: int
    # `max_tokens` cut this block; it is the last one and does not count for convergence.
    cut: bool
    last: bool

    @property
    def size(self) -> int:
        """Tokens of this block."""
        return sum(map(len, self.rows))


@dataclass
class BlockSums:
    """For each layer: the float32 sum of k k^T over a block of documents, and one key per document.

    A block without tokens has no sum. The key is that of the middle token: the first and last tokens are not typical.
    """

    sums: dict[int, Tensor]
    middles: dict[int, list[Tensor]]


# Reads blocks at some layers and yields their sums in the same order. It may request several blocks before it yields
# the first. It calls its last argument with the number of tokens read so far, which may raise `StopRequested`.
BlockReader = Callable[
    [Iterator[DocumentBlock], Sequence[int], Callable[[int], None]], Iterator[tuple[DocumentBlock, BlockSums]]
]


def collect(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Sequence[int],
    settings: CollectionSettings,
    start: CollectionState | None = None,
    report: Report = silent,
) -> Iterator[CollectionState]:
    """`collect_with` for a model in this process."""
    yield from collect_with(
        partial(read_in_process, decoder), decoder.anatomy, tokenizer, corpus, layers, settings, start, report
    )


def collect_with(
    read: BlockReader,
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    layers: Sequence[int],
    settings: CollectionSettings,
    start: CollectionState | None = None,
    report: Report = silent,
) -> Iterator[CollectionState]:
    """Collect the moments of `layers`. Yields the state after each block of documents; the last one has `is_finished`.

    Ends at the end of the texts, at exactly `max_tokens` (the last document is cut), or when the last doubling of the
    tokens changed C^-1 k by at most `tolerance` at every layer. Resuming from an earlier state (`start`) gives the same
    bits as an uninterrupted collection, and so does any `read`.

    Raises:
        InputError: a layer out of range, or texts without tokens.
    """
    for layer in layers:
        if not 0 <= layer < anatomy.layers:
            raise InputError(
                f"layer {layer} is out of range; this model has layers 0 to {anatomy.layers - 1}"
            )
    state = start or CollectionState(_empty_moments(anatomy, layers), 0, 0, is_finished=False)
    total = _expected_tokens(corpus, state, settings.max_tokens)
    detail = f"{corpus.source}, {_format_layers(layers)}"

    def on_tokens(done: int) -> None:
        report(Progress(done, total, "tokens", "reading texts", detail))

    blocks = _iter_blocks(tokenizer, corpus, state, settings)
    for block, sums in read(blocks, layers, on_tokens):
        before_cut = copy.deepcopy(state) if block.cut else None
        _add_block(block, sums, state)
        if state.tokens == 0:
            raise InputError(f"the tokenizer finds no tokens in {corpus.source}; choose other texts")
        if not block.cut:
            for moment in state.moments.values():
                if moment.convergence.is_due(moment.tokens):
                    moment.convergence.update(moment.total, moment.tokens)
        converged = settings.tolerance is not None and all(
            moment.convergence.has_converged(settings.tolerance) for moment in state.moments.values()
        )
        documents = state.documents + len(block.rows)
        state = CollectionState(
            state.moments, state.blocks + 1, documents, block.last or converged, before_cut
        )
        on_tokens(state.tokens)
        total = _expected_tokens(corpus, state, settings.max_tokens)
        yield state
        if state.is_finished:
            return


def read_in_process(
    decoder: Decoder, blocks: Iterator[DocumentBlock], layers: Sequence[int], on_tokens: Callable[[int], None]
) -> Iterator[tuple[DocumentBlock, BlockSums]]:
    """The `BlockReader` that runs one block after another in this process."""
    for block in blocks:

        def on_block_tokens(done: int, before: int = block.tokens) -> None:
            on_tokens(before + done)

        yield block, read_block(decoder, block.rows, layers, on_block_tokens)


def read_block(
    decoder: Decoder,
    rows: list[list[int]],
    layers: Sequence[int],
    on_tokens: Callable[[int], None] = lambda _done: None,
) -> BlockSums:
    """The sums of one block. Its bits do not depend on the process or on earlier blocks.

    `on_tokens` is called before each batch with the tokens of the block read so far; it may raise `StopRequested`.
    """
    sums, done = BlockSums({}, {layer: [] for layer in layers}), 0
    for batch in split_by_length(rows):
        on_tokens(done)
        _read_batch(decoder, batch, sums)
        done += sum(map(len, batch))
    return sums


def split_by_length(rows: list[list[int]]) -> Iterator[list[list[int]]]:
    """Batches of rows of similar length, so that few positions are padding. Empty rows are left out."""
    batch: list[list[int]] = []
    for row in sorted(filter(None, rows), key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > scaled_batch(READING_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _read_batch(decoder: Decoder, batch: list[list[int]], sums: BlockSums) -> None:
    """Run some rows and add their keys to `sums`."""
    ids, mask = pad_right(batch, decoder.device)
    real = mask.flatten().nonzero().squeeze(1)
    documents, middle = torch.arange(len(batch)), torch.tensor([len(row) // 2 for row in batch])

    def on_key(layer: int, keys: Tensor) -> None:
        if layer not in sums.middles:
            return
        k = keys.flatten(0, 1).index_select(0, real).float()
        if layer in sums.sums:
            sums.sums[layer].addmm_(k.T, k)
        else:
            sums.sums[layer] = k.T @ k
        sums.middles[layer].append(keys[documents, middle].double().cpu())

    decoder.run(ids, mask, on_key=on_key, stop_after=max(sums.middles), resumable=False)


def _iter_blocks(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, start: CollectionState, settings: CollectionSettings
) -> Iterator[DocumentBlock]:
    """The blocks after a state. They do not depend on the sums, so a reader may read ahead."""
    documents = islice(corpus.documents(settings.seed), start.documents, None)
    tokens = start.tokens
    for number in count(start.blocks):
        texts = list(islice(documents, BLOCK_DOCUMENTS))
        # An empty list is an error for some tokenizers.
        rows = tokenizer(texts, truncation=True, max_length=settings.max_length)["input_ids"] if texts else []
        left = settings.max_tokens - tokens
        cut = sum(map(len, rows)) > left
        if cut:
            rows = _take_tokens(rows, left)
        size = sum(map(len, rows))
        last = cut or size == left or len(texts) < BLOCK_DOCUMENTS
        yield DocumentBlock(number, rows, tokens, cut, last)
        if last:
            return
        tokens += size


def _take_tokens(rows: list[list[int]], limit: int) -> list[list[int]]:
    """The first rows, `limit` tokens in total; the last row is cut."""
    taken: list[list[int]] = []
    for row in rows:
        if limit == 0:
            break
        taken.append(row[:limit])
        limit -= len(taken[-1])
    return taken


def _empty_moments(anatomy: Anatomy, layers: Sequence[int]) -> dict[int, SecondMoment]:
    size = anatomy.key_width
    no_probes = torch.zeros(size, 0, dtype=torch.float64)
    return {
        layer: SecondMoment(torch.zeros(size, size, dtype=torch.float64), 0, Convergence(no_probes))
        for layer in layers
    }


def _add_block(block: DocumentBlock, sums: BlockSums, state: CollectionState) -> None:
    """Add the sums of the next block to the moments. The keys of the first block become the probes."""
    for layer, moment in state.moments.items():
        if layer in sums.sums:
            moment.total += sums.sums[layer].cpu()
            if state.blocks == 0:
                moment.convergence.probes = torch.cat(sums.middles[layer]).T.contiguous()
        moment.tokens = block.tokens + block.size


def _expected_tokens(corpus: Corpus, state: CollectionState, max_tokens: int) -> int:
    """`max_tokens`, or fewer if the documents so far suggest that the corpus has fewer."""
    if corpus.size is None or state.documents == 0:
        return max_tokens
    return min(max_tokens, round(state.tokens / state.documents * corpus.size))


def _format_layers(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return "layers " + (", ".join(map(str, layers)) if len(layers) < 4 else f"{min(layers)}-{max(layers)}")
