"""Put states of the clean run back, for every layer of one token at once, and read p(answer) again.

All layers of a token, and all facts of one shape, climb together in one batch that grows as it climbs: a variant joins
after the first block that it restores, is one with others until they differ, and is run for no more than can change.
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
    """The cell of one layer: its states are restored in the blocks [first, stop)."""

    layer: int
    first: int
    stop: int


def restore(
    decoder: Decoder, corrupted: CorruptedRun, kind: Kind, token: int, window: int, budget: Budget
) -> list[list[float]]:
    """p(answer) `[facts][layers]` with each layer's (window's) states restored at `token`."""
    layers, at_end = decoder.layers, token == corrupted.run.length - 1
    known: dict[int, list[float]] = {}
    if kind in WINDOWED:
        variants = [_Variant(layer, *window_blocks(layer, window, layers)) for layer in range(layers)]
    else:
        # The last block's output at the last token is the clean answer; elsewhere nothing reads it.
        known[layers - 1] = corrupted.high if at_end else corrupted.low
        variants = [_Variant(layer, layer, layer + 1) for layer in range(layers - 1)]
    rows_tokens = len(corrupted.corrupted) * (corrupted.run.length - token)
    for found in budget.batches(
        variants, rows_tokens, lambda part: _climb(decoder, corrupted, kind, token, part)
    ):
        known |= found
    return [[known[layer][fact] for layer in range(layers)] for fact in range(len(corrupted.facts))]


@torch.no_grad()
def _climb(
    decoder: Decoder, corrupted: CorruptedRun, kind: Kind, token: int, variants: Sequence[_Variant]
) -> dict[int, list[float]]:
    """Take variants up to the head together: layer -> p(answer) of each fact."""
    climb = _Climb(decoder, corrupted, kind, token)
    for block in range(min(variant.first for variant in variants), decoder.layers):
        climb.step(block)
        climb.join(block, [variant for variant in variants if variant.first == block])
        climb.split(block + 1)
    probabilities = corrupted.probability(decoder.logits(climb.hidden[:, -1:])[:, 0]).tolist()
    return {
        variant.layer: scores
        for group, scores in zip(climb.groups, probabilities, strict=True)
        for variant in group
    }


class _Climb:
    """A batch on its way up: groups of variants that are equal so far, each with the corrupted rows of all facts."""

    def __init__(self, decoder: Decoder, corrupted: CorruptedRun, kind: Kind, token: int) -> None:
        self.decoder, self.corrupted, self.kind, self.token = decoder, corrupted, kind, token
        run = corrupted.run
        self.groups: list[list[_Variant]] = []
        self.hidden = run.states[0].new_empty(0)
        self._rows = self._clean = corrupted.corrupted[:0]
        self._whole = corrupted.resume(token)
        self._end = corrupted.resume(run.length - 1) if token < run.length - 1 else None

    def step(self, block: int) -> None:
        """Take everybody on board through a block."""
        if not self.groups:
            return
        if block == self.decoder.layers - 1 and self._end is not None:
            # What is restored or severed left of the last position is read by nothing after this block.
            self.hidden = self._whole.last_step(self._end, block, self.hidden, self._rows)
        else:
            self.hidden = self._whole.step(block, self.hidden, self._rows, self._edits(block))

    def join(self, block: int, variants: list[_Variant]) -> None:
        """Take on board, after a block, those whose first restored block it is: one group until they differ."""
        if not variants:
            return
        rows, clean = self.corrupted.corrupted, self.corrupted.clean
        entering = self._whole.states_entering(block + 1, rows)
        entering[:, 0] = self._restored(block, rows, clean)
        if self.groups:
            entering = entering[:, -self.hidden.shape[1] :]
            self.hidden = torch.cat([self.hidden, entering])
        else:
            self.hidden = entering
        self.groups.append(variants)
        self._renumber()

    def split(self, block: int) -> None:
        """Before a block: variants whose window ends here part from those of their group that go on."""
        for i, group in enumerate(list(self.groups)):
            ending = [variant for variant in group if variant.stop == block]
            if ending and len(ending) < len(group):
                size = len(self.corrupted.corrupted)
                self.hidden = torch.cat([self.hidden, self.hidden[i * size : (i + 1) * size]])
                self.groups[i] = [variant for variant in group if variant.stop != block]
                self.groups.append(ending)
        self._renumber()

    def _renumber(self) -> None:
        self._rows = self.corrupted.corrupted.repeat(len(self.groups))
        self._clean = self.corrupted.clean.repeat(len(self.groups))

    def _restored(self, block: int, rows: Tensor, clean: Tensor) -> Tensor:
        """The states `[rows, width]` at the token after the first restored block."""
        if self.kind not in WINDOWED:
            return self.corrupted.run.states[block + 1][clean, self.token]
        # A part's output at the token changes nothing else in its own block: one position is run.
        role = WINDOWED[self.kind]
        alone = self.corrupted.resume(self.token, self.token + 1)
        edit = self._putting(self.corrupted.run.captured[role][block][clean, self.token])
        return alone.step(block, alone.states_entering(block, rows), rows, {role: edit})[:, 0]

    def _edits(self, block: int) -> dict[Role, Edit]:
        captured = self.corrupted.run.captured
        if role := SEVERED.get(self.kind):
            return {role: self._putting(captured[role][block][self._rows, self.token])}
        if role := WINDOWED.get(self.kind):
            size = len(self.corrupted.corrupted)
            inside = torch.tensor([group[0].first <= block < group[0].stop for group in self.groups])
            chosen = inside.repeat_interleave(size).nonzero()[:, 0].to(self._clean.device)
            if len(chosen):
                return {role: self._putting(captured[role][block][self._clean[chosen], self.token], chosen)}
        return {}

    @staticmethod
    def _putting(states: Tensor, rows: Tensor | slice = slice(None)) -> Edit:
        """Put states at the first position of some rows."""

        def edit(output: Tensor) -> Tensor:
            output = output.clone()
            output[rows, 0] = states
            return output

        return edit
