"""Restore states of the clean run at one token, and measure p(answer) again.

Restorations at all layers of a token, for all facts of one shape, run as one batch: the one for layer L joins at block
L. Variants of a window that are equal so far share their rows, and each variant runs only for the positions that can
change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.decoder import Decoder, Edit
from ..model.memory import Budget
from ..model.roles import Role
from .corruption import CorruptedRun
from .rules import SEVERED, WINDOWED, Kind, window_blocks


@dataclass(frozen=True)
class _Variant:
    """The restoration for one layer: states of the blocks [first, stop) are restored."""

    layer: int
    first: int
    stop: int


def restore(
    decoder: Decoder, run: CorruptedRun, kind: Kind, token: int, window: int, budget: Budget
) -> list[list[float]]:
    """p(answer) `[facts][layers]` with the states of each layer (or its window) restored at `token`."""
    layers, is_last_token = decoder.layers, token == run.run.length - 1
    scores: dict[int, list[float]] = {}
    if kind in WINDOWED:
        variants = [_Variant(layer, *window_blocks(layer, window, layers)) for layer in range(layers)]
    else:
        # At the last token, the last block's output is the clean answer. At other tokens, nothing reads it.
        scores[layers - 1] = run.high if is_last_token else run.low
        variants = [_Variant(layer, layer, layer + 1) for layer in range(layers - 1)]
    tokens_per_variant = len(run.corrupted) * (run.run.length - token)
    for batch in budget.batches(
        variants, tokens_per_variant, lambda part: _restore_batch(decoder, run, kind, token, part)
    ):
        scores |= batch
    return [[scores[layer][fact] for layer in range(layers)] for fact in range(len(run.facts))]


@torch.no_grad()
def _restore_batch(
    decoder: Decoder, run: CorruptedRun, kind: Kind, token: int, variants: Sequence[_Variant]
) -> dict[int, list[float]]:
    """Run variants through the decoder in one batch: layer -> p(answer) of each fact."""
    batch = _GrowingBatch(decoder, run, kind, token)
    for block in range(min(variant.first for variant in variants), decoder.layers):
        batch.step(block)
        batch.join(block, [variant for variant in variants if variant.first == block])
        batch.split(block + 1)
    probabilities = run.probability(decoder.logits(batch.hidden[:, -1:])[:, 0]).tolist()
    return {
        variant.layer: scores
        for group, scores in zip(batch.groups, probabilities, strict=True)
        for variant in group
    }


class _GrowingBatch:
    """Groups of variants that are equal so far. Each group has the corrupted rows of all facts.

    `hidden` is `[groups * facts * samples, positions, width]`; its first position is the restored token.
    """

    def __init__(self, decoder: Decoder, run: CorruptedRun, kind: Kind, token: int) -> None:
        self.decoder, self.run, self.kind, self.token = decoder, run, kind, token
        self.groups: list[list[_Variant]] = []
        self.hidden = run.run.states[0].new_empty(0)
        self._rows = self._clean = run.corrupted[:0]
        self._from_token = run.resume(token)
        self._last_position = run.resume(run.run.length - 1) if token < run.run.length - 1 else None

    def step(self, block: int) -> None:
        """Run all groups through a block."""
        if not self.groups:
            return
        if block == self.decoder.layers - 1 and self._last_position is not None:
            # After the last block, only the last position is read.
            self.hidden = self._from_token.last_step(self._last_position, block, self.hidden, self._rows)
        else:
            self.hidden = self._from_token.step(block, self.hidden, self._rows, self._edits(block))

    def join(self, block: int, variants: list[_Variant]) -> None:
        """After a block, add the variants whose first restored block it is, as one group."""
        if not variants:
            return
        entering = self._from_token.states_entering(block + 1, self.run.corrupted)
        entering[:, 0] = self._restored_states(block)
        if self.groups:
            entering = torch.cat([self.hidden, entering[:, -self.hidden.shape[1] :]])
        self.hidden = entering
        self.groups.append(variants)
        self._repeat_rows()

    def split(self, block: int) -> None:
        """Split each group before a block runs: restorations whose window ends at this block, and the others."""
        size = len(self.run.corrupted)
        for i, group in enumerate(list(self.groups)):
            ending = [variant for variant in group if variant.stop == block]
            if ending and len(ending) < len(group):
                self.hidden = torch.cat([self.hidden, self.hidden[i * size : (i + 1) * size]])
                self.groups[i] = [variant for variant in group if variant.stop != block]
                self.groups.append(ending)
        self._repeat_rows()

    def _repeat_rows(self) -> None:
        self._rows = self.run.corrupted.repeat(len(self.groups))
        self._clean = self.run.clean.repeat(len(self.groups))

    def _restored_states(self, block: int) -> Tensor:
        """The states `[facts * samples, width]` at the token after the first restored block."""
        run = self.run
        if self.kind not in WINDOWED:
            return run.run.states[block + 1][run.clean, self.token]
        # Within its block, a part's output at the token changes no other position: run one position.
        role = WINDOWED[self.kind]
        single = run.resume(self.token, self.token + 1)
        edit = _replace_first(run.run.captured[role][block][run.clean, self.token])
        return single.step(block, single.states_entering(block, run.corrupted), run.corrupted, {role: edit})[
            :, 0
        ]

    def _edits(self, block: int) -> dict[Role, Edit]:
        captured = self.run.run.captured
        if role := SEVERED.get(self.kind):
            return {role: _replace_first(captured[role][block][self._rows, self.token])}
        if role := WINDOWED.get(self.kind):
            in_window = torch.tensor([group[0].first <= block < group[0].stop for group in self.groups])
            rows = in_window.repeat_interleave(len(self.run.corrupted)).nonzero()[:, 0].to(self._clean.device)
            if len(rows):
                return {role: _replace_first(captured[role][block][self._clean[rows], self.token], rows)}
        return {}


def _replace_first(states: Tensor, rows: Tensor | slice = slice(None)) -> Edit:
    """An edit that replaces the first position of some rows by `states`."""

    def edit(output: Tensor) -> Tensor:
        output = output.clone()
        output[rows, 0] = states
        return output

    return edit
