"""A trace in seconds: attribution patching (Nanda 2023; Kramar et al. 2024), an estimate and marked as one.

To first order, putting a clean state back changes p(answer) by (clean - corrupted) . gradient of p(answer) there. One
pass forward and one backward over the corrupted rows give that for every layer, token and kind at once; a window's
estimate is the sum over its blocks. Exact values replace it cell by cell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.decoder import Decoder, Edit
from ..model.roles import Role
from .corruption import CorruptedRun
from .rules import Kind, Scores, window_blocks

_PARTS: tuple[Role, ...] = ("attn", "mlp")


def estimate_scores(
    decoder: Decoder, corrupted: CorruptedRun, kinds: Sequence[Kind], window: int
) -> list[dict[Kind, Scores]]:
    """Estimated scores of each fact, `[kind][token][layer]`; severed kinds have no such estimate and are left out.

    A linear estimate may leave [0, 1]; it is not bent to fit.
    """
    begin, layers = corrupted.shape.begin, decoder.layers
    states, parts = _gradients(decoder, corrupted, begin)
    by_kind: dict[Kind, Tensor] = {"hidden": states}
    for kind in _PARTS:
        totals = parts[kind].cumsum(-1)
        sums = []
        for layer in range(layers):
            first, stop = window_blocks(layer, window, layers)
            sums.append(totals[..., stop - 1] - (totals[..., first - 1] if first else 0.0))
        by_kind["mlp" if kind == "mlp" else "attn"] = torch.stack(sums, dim=-1)
    results: list[dict[Kind, Scores]] = []
    for fact, low in enumerate(corrupted.low):
        results.append(
            {
                kind: [[low] * layers for _ in range(begin)] + (low + by_kind[kind][fact]).tolist()
                for kind in kinds
                if kind in by_kind
            }
        )
    return results


def _gradients(decoder: Decoder, corrupted: CorruptedRun, begin: int) -> tuple[Tensor, dict[Role, Tensor]]:
    """Estimated changes of p(answer), `[facts, T - begin, layers]`, for block outputs and for each part's output."""
    rows = corrupted.corrupted
    resumption = corrupted.resume(begin)
    kept: dict[Role, list[Tensor]] = {part: [] for part in _PARTS}

    def keeping(part: Role) -> Edit:
        def edit(output: Tensor) -> Tensor:
            output = output.clone()  # Falcon adds into it in place
            output.retain_grad()
            kept[part].append(output)
            return output * 1.0

        return edit

    edits = {part: keeping(part) for part in _PARTS}
    hidden = resumption.states_entering(0, rows).requires_grad_()
    outputs = []
    with torch.enable_grad():
        for block in range(decoder.layers):
            hidden = resumption.step(block, hidden, rows, edits)
            hidden.retain_grad()
            outputs.append(hidden)
        logits = decoder.logits(hidden[:, -1:])[:, 0]
        corrupted.probability(logits).sum().backward()
    run, clean = corrupted.run, corrupted.clean
    states = [run.states[block + 1][clean, begin:] for block in range(decoder.layers)]
    changes = _changes(corrupted, states, outputs)
    return changes, {
        part: _changes(corrupted, [one[clean, begin:] for one in run.captured[part]], kept[part])
        for part in _PARTS
    }


def _changes(corrupted: CorruptedRun, clean: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """Sum over samples of (clean - corrupted) . gradient, `[facts, positions, layers]`."""
    columns = []
    for want, have in zip(clean, outputs, strict=True):
        assert have.grad is not None  # retained above
        change = ((want - have.detach()).float() * have.grad.float()).sum(-1)
        columns.append(change.view(len(corrupted.facts), corrupted.samples, -1).sum(1))
    return torch.stack(columns, dim=-1)
