"""Training examples as micro-batches on a device, each resumed at the lowest changed block."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..model.decoder import Decoder
from ..model.limits import search_tokens
from ..model.tokens import pad_right
from .hparams.training import TrainingHparams
from .training_examples import TrainingExamples

# The share of rehearsed rows among the rows of a step is 1 / 3, because rehearsed facts only have to stay.
REHEARSED_SHARE = 3
# The least share of new facts in the loss, however many facts are rehearsed.
MIN_NEW_LOSS_SHARE = 1 / 3


class TrainingBatches:
    """Micro-batches of new facts, of rehearsed facts and of the preservation set, each small enough for memory.

    With `rows`, a micro-batch has at most its share of them.
    """

    def __init__(self, decoder: Decoder, examples: TrainingExamples, first: int, rows: int = 0) -> None:
        self.decoder, self.examples = decoder, examples
        new, rehearsed = examples.rows(new=True), examples.rows(new=False)
        preserved = sorted(set(range(len(examples.ids))).difference(new, rehearsed))
        max_new, max_rehearsed = split_rows(examples, rows)

        def build(of: list[int], max_rows: int) -> list[Microbatch]:
            groups = _group_by_length(examples, of, decoder.device, max_rows)
            return [Microbatch(decoder, examples, first, group) for group in groups]

        self.new, self.rehearsed = build(new, max_new), build(rehearsed, max_rehearsed)
        self.preserved = build(preserved, rows)

    @property
    def targets(self) -> list["Microbatch"]:
        """The micro-batches with targets."""
        return self.new + self.rehearsed

    def read_keys(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """The inputs of each layer's matrix at the key positions of the requests, `[tokens, key_width]` float32."""
        keys = [batch.read_keys(layers, batch.key_positions) for batch in self.targets]
        return {layer: torch.cat([of_batch[layer] for of_batch in keys]) for layer in layers}

    def preserved_moments(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """E[k k^T] `[key_width, key_width]` float32 on the CPU over the preservation set, without the first token of
        each row. Empty if there is no such row."""
        sums: dict[int, Tensor] = {}
        count = 0
        for batch in self.preserved:
            keys = batch.read_keys(layers, batch.after_first)
            count += len(next(iter(keys.values())))
            for layer, of_layer in keys.items():
                product = (of_layer.T @ of_layer).cpu()
                sums[layer] = sums[layer].add_(product) if layer in sums else product
        return {layer: total / count for layer, total in sums.items()}

    def residual_norms(self, layers: Sequence[int]) -> dict[int, float]:
        """The mean norm of the residual stream after each layer, relative to the mean over these layers.

        Measured on the preservation set, without the first token of each row.
        """
        norms = torch.stack([batch.sum_residual_norms(layers) for batch in self.preserved]).sum(0)
        return dict(zip(layers, (norms / norms.mean()).tolist(), strict=True))

    def loss_weights(self) -> tuple[float, float]:
        """Loss weights of new and of rehearsed facts, relative to their share of the requests."""
        share = sum(batch.weight for batch in self.new)
        if not self.rehearsed:
            return 1.0, 0.0
        weighted = max(share, MIN_NEW_LOSS_SHARE)
        return weighted / share, (1 - weighted) / (1 - share)

    def iter_batches(self, hparams: TrainingHparams, seed: int) -> Iterator[list["Microbatch"]]:
        """The micro-batches of one step after another: all, or at least `rows` rows with targets and `preserved_rows`
        rows of the preservation set."""
        if not hparams.rows:
            while True:
                yield self.targets + self.preserved
        new, rehearsed = split_rows(self.examples, hparams.rows)
        groups = (
            (self.new, new),
            (self.rehearsed, rehearsed),
            (self.preserved, hparams.preserved_rows),
        )
        draws = [_draw(batches, rows, seed) for batches, rows in groups]
        while True:
            yield [batch for draw in draws for batch in next(draw)]


def split_rows(examples: TrainingExamples, rows: int) -> tuple[int, int]:
    """Split the rows of a step into new and rehearsed ones, at least 1 of each that exists."""
    if not rows or examples.new == examples.requests:
        return rows, 0
    rehearsed = max(1, rows // REHEARSED_SHARE)
    return max(1, rows - rehearsed), rehearsed


def _draw(batches: list["Microbatch"], rows: int, seed: int) -> Iterator[list["Microbatch"]]:
    """Yield micro-batches with at least `rows` rows together, without replacement until all were drawn."""
    order, rng = list[Microbatch](), random.Random(seed)
    while True:
        drawn: list[Microbatch] = []
        while batches and sum(len(batch.rows) for batch in drawn) < rows:
            order = order or rng.sample(batches, len(batches))
            drawn.append(order.pop())
        yield drawn


def _group_by_length(
    examples: TrainingExamples, rows: Sequence[int], device: torch.device, max_rows: int
) -> list[list[int]]:
    """Group rows of similar length, limited by the tokens that fit into memory and by `max_rows`."""
    max_tokens = search_tokens(device.type)
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: len(examples.ids[row])):
        last = groups[-1] if groups else []
        if not last or (len(last) + 1) * len(examples.ids[row]) > max_tokens or len(last) == max_rows:
            groups.append([])
        groups[-1].append(row)
    return groups


class Microbatch:
    """Some rows of the examples as tensors, run from block `first` on.

    `weight` is the share of all targets that these rows hold, `preserved_weight` the share of all preserved rows.
    """

    def __init__(self, decoder: Decoder, examples: TrainingExamples, first: int, rows: list[int]) -> None:
        self._decoder, self._examples, self._first, self.rows = decoder, examples, first, rows
        device = decoder.device
        self._ids, mask = pad_right([examples.ids[row] for row in rows], device)
        self._mask = mask.bool()
        run = decoder.run(self._ids, mask, stop_after=max(0, first - 1))
        self._hidden = run.states[first].clone()
        self._resumption = decoder.resume(run, 0)
        run.states.clear()
        self._indices = torch.arange(len(rows), device=device)
        index = {row: number for number, row in enumerate(rows)}
        reads = [(index[row], *rest) for row, *rest in examples.reads if row in index]
        self._read_row, self._read_position, self._target, self._request = self._columns(reads, 4)
        preserved = [(index[row], position) for row in rows for position in examples.preserved.get(row, ())]
        self._preserved_row, self._preserved_position = self._columns(preserved, 2)
        lengths = [len(examples.preserved[rows[number]]) for number, _ in preserved]
        self._preserved_share = 1 / torch.tensor(lengths, device=device, dtype=torch.float32)
        counts = torch.bincount(
            torch.tensor([read[3] for read in examples.reads]), minlength=examples.requests
        )
        self._share = 1 / counts.to(device)[self._request].float()
        self.weight = self._share.sum().item() / examples.requests
        self.preserved_weight = sum(row in index for row in examples.preserved) / max(
            1, len(examples.preserved)
        )
        with torch.no_grad():
            # States rather than distributions: a vocabulary per position takes memory, and is cheap to compute again.
            self._states_before = self._run()[self._preserved_row, self._preserved_position]

    def _columns(self, rows: Sequence[Sequence[int]], count: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._decoder.device).view(-1, count).T

    def losses(self) -> tuple[Tensor, Tensor]:
        """With the current weights: the rows' part of each request's mean negative log-likelihood per target token
        `[requests]`, and of the mean KL(before || now) of the preservation set."""
        hidden = self._run()
        logs = self._log_softmax(hidden[self._read_row, self._read_position])
        target_logs = logs.gather(1, self._target[:, None])[:, 0]
        per_request = torch.zeros(self._examples.requests, device=hidden.device)
        per_request = per_request.index_add(0, self._request, -target_logs * self._share)
        now = self._log_softmax(hidden[self._preserved_row, self._preserved_position])
        with torch.no_grad():
            before = self._log_softmax(self._states_before)
        divergences = (before.exp() * (before - now)).sum(-1)
        kl = (divergences * self._preserved_share).sum() / max(1, len(self._examples.preserved))
        return per_request, kl

    @property
    def key_positions(self) -> Tensor:
        """Mask of the tokens whose keys a change may be written over, `[rows, T]`."""
        positions = torch.zeros_like(self._mask)
        for number, row in enumerate(self.rows):
            begin, end = self._examples.key_ranges.get(row, (0, 0))
            positions[number, begin:end] = True
        return positions

    @property
    def after_first(self) -> Tensor:
        """Mask of all tokens but the first of each row, `[rows, T]`."""
        positions = self._mask.clone()
        positions[:, 0] = False
        return positions

    def read_keys(self, layers: Sequence[int], positions: Tensor) -> dict[int, Tensor]:
        """The inputs of each layer's matrix at the positions, `[tokens, key_width]` float32."""
        keys: dict[int, Tensor] = {}

        def on_key(layer: int, key: Tensor) -> None:
            if layer in layers:
                keys[layer] = key[positions].float()

        mask = self._mask.long()
        self._decoder.run(self._ids, mask, on_key=on_key, stop_after=max(layers), resumable=False)
        return keys

    def sum_residual_norms(self, layers: Sequence[int]) -> Tensor:
        """The sum of the norms of each layer's output over all tokens but the first of each row, `[layers]`."""
        run = self._decoder.run(self._ids, self._mask.long(), stop_after=max(layers))
        positions = self.after_first
        norms = [run.states[layer + 1][positions].float().norm(dim=-1).sum() for layer in layers]
        run.states.clear()
        return torch.stack(norms)

    def _run(self) -> Tensor:
        hidden = self._hidden.clone()
        for layer in range(self._first, self._decoder.layers):
            hidden = self._resumption.step(layer, hidden, self._indices)
        return hidden

    def _log_softmax(self, hidden: Tensor) -> Tensor:
        """Log distributions `[positions, vocabulary]` float32 of states `[positions, width]`, possibly none."""
        if not len(hidden):
            return hidden.new_zeros(0, 1, dtype=torch.float32)
        return self._decoder.logits(hidden[:, None])[:, 0].float().log_softmax(-1)
