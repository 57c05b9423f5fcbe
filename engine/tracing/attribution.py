"""Estimate a trace in seconds by attribution patching (Nanda 2023; Kramar et al. 2024).

To first order, restoring a clean state changes p(answer) by (clean - corrupted) . gradient of p(answer). One forward
and one backward pass over the corrupted rows give this for every layer, token and kind. The estimate of a window is the
sum over its blocks. Exact scores replace the estimate cell by cell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.decoder import Decoder, Edit
from ..model.roles import Role
from .corruption import CorruptedRun
from .rules import WINDOWED, Kind, Scores, window_blocks


def estimate_scores(
    decoder: Decoder, run: CorruptedRun, kinds: Sequence[Kind], window: int
) -> list[dict[Kind, Scores]]:
    """Estimated scores of each fact, `[kind][token][layer]`. Severed kinds have no estimate and are left out.

    The estimate is linear and may leave [0, 1]; it is not clipped.
    """
    begin, layers = run.shape.begin, decoder.layers
    changes = _estimate_changes(decoder, run, begin)
    for kind in WINDOWED:
        totals = torch.nn.functional.pad(changes[kind].cumsum(-1), (1, 0))
        windows = [window_blocks(layer, window, layers) for layer in range(layers)]
        changes[kind] = torch.stack(
            [totals[..., stop] - totals[..., first] for first, stop in windows], dim=-1
        )
    return [
        {
            kind: [[low] * layers for _ in range(begin)] + (low + changes[kind][fact]).tolist()
            for kind in kinds
            if kind in changes
        }
        for fact, low in enumerate(run.low)
    ]


def _estimate_changes(decoder: Decoder, run: CorruptedRun, begin: int) -> dict[Kind, Tensor]:
    """Estimated changes of p(answer), `[facts, T - begin, layers]`, for block outputs (hidden), MLPs and attentions."""
    rows = run.corrupted
    resumption = run.resume(begin)
    outputs: dict[Role, list[Tensor]] = {"attn": [], "mlp": []}

    def record(part: Role) -> Edit:
        def edit(output: Tensor) -> Tensor:
            output = output.clone()  # Falcon adds to it in place
            output.retain_grad()
            outputs[part].append(output)
            return output * 1.0

        return edit

    edits = {part: record(part) for part in outputs}
    hidden = resumption.states_entering(0, rows).requires_grad_()
    states = []
    with torch.enable_grad():
        for block in range(decoder.layers):
            hidden = resumption.step(block, hidden, rows, edits)
            hidden.retain_grad()
            states.append(hidden)
        logits = decoder.logits(hidden[:, -1:])[:, 0]
        run.probability(logits).sum().backward()
    changes: dict[Kind, Tensor] = {"hidden": _changes(run, run.run.states[1:], states, begin)}
    for kind, role in WINDOWED.items():
        changes[kind] = _changes(run, run.run.captured[role], outputs[role], begin)
    return changes


def _changes(run: CorruptedRun, clean: Sequence[Tensor], corrupted: Sequence[Tensor], begin: int) -> Tensor:
    """Sum over samples of (clean - corrupted) . gradient, `[facts, T - begin, layers]`."""
    columns = []
    for clean_states, states in zip(clean, corrupted, strict=True):
        assert states.grad is not None  # `retain_grad` was called
        difference = clean_states[run.clean, begin:] - states.detach()
        change = (difference.float() * states.grad.float()).sum(-1)
        columns.append(change.view(len(run.facts), run.samples, -1).sum(1))
    return torch.stack(columns, dim=-1)
