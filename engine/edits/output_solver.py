"""From a wanted change of a block's output back to the change of its matrix's output that makes it.

In most models the two are one: the block adds what the matrix puts out. Where a norm stands between the matrix and the
residual stream (Gemma 2 and 3, OLMo 2) or the sum is scaled (Granite), a change must be found that comes out right on
the other side: Newton's method on the block itself, at the subject's last token, with least squares where the norm
leaves no way.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..model.anatomy import Anatomy
from ..model.decoder import Decoder
from ..model.tokens import pad_aligned
from .request import Request

_MOST_STEPS = 10
# A change is met when what is lacking is this small beside it.
_MET = 1e-6
# Slopes of less than this of the steepest are a norm's blind direction, but for its epsilon and rounding.
_BLIND = 1e-3


def adds_plainly(anatomy: Anatomy) -> bool:
    """Whether a change of the matrix's output is the same change of the block's."""
    return anatomy.additive and anatomy.mlp_norm is None


class Through:
    """One block at the last subject tokens of some requests' bare prompts, with the weights as they are now."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        layer: int,
    ) -> None:
        rows = [one.ids[: one.end] for one in (request.located(tokenizer) for request in requests)]
        ids, mask = pad_aligned(rows, [len(row) - 1 for row in rows], decoder.device)
        run = decoder.run(ids, mask, stop_after=layer)
        self._resumption = decoder.resume(run, ids.shape[1] - 1)
        self.layer, self.count = layer, len(rows)
        self.width, self.device = decoder.anatomy.width, decoder.device

    def states(self, changes: Tensor) -> Tensor:
        """The block's output `[requests, width]` float32 with changes `[requests, width]` of the matrix's output."""
        with torch.no_grad():
            return self._states(changes.float(), torch.arange(self.count, device=self.device))

    def changes(self, wanted: Tensor) -> Tensor:
        """The changes of the matrix's output `[requests, width]` float64 that change the block's by `wanted`."""
        nothing = torch.zeros(self.count, self.width, device=self.device)
        goals = self.states(nothing).double() + wanted.double()
        return torch.stack([self._change(i, goals[i], wanted[i].norm().item()) for i in range(self.count)])

    def _change(self, number: int, goal: Tensor, size: float) -> Tensor:
        change = best = torch.zeros(self.width, dtype=torch.float64, device=self.device)
        least = float("inf")
        for _ in range(_MOST_STEPS):
            state, slopes = self._linearized(number, change)
            lack = goal - state
            if lack.norm().item() >= least:
                break
            best, least = change, lack.norm().item()
            if least <= _MET * size:
                break
            solved = torch.linalg.lstsq(slopes.cpu(), lack.cpu()[:, None], rcond=_BLIND, driver="gelsd")
            change = change + solved.solution[:, 0].to(self.device)
        return best

    def _linearized(self, number: int, change: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output `[width]` and its derivatives `[out, in]` by the matrix's output, float64.

        The request's row is run once for each output, so that one backward pass gives all of them.
        """
        rows = torch.full((self.width,), number, device=self.device)
        changes = change.float().expand(self.width, -1).clone().requires_grad_(True)
        states = self._states(changes, rows)
        (slopes,) = torch.autograd.grad(states.diagonal().sum(), changes)
        return states[0].detach().double(), slopes.double()

    def _states(self, changes: Tensor, rows: Tensor) -> Tensor:
        def add(output: Tensor) -> Tensor:
            return (output[:, 0].float() + changes).to(output.dtype)[:, None]

        hidden = self._resumption.states_entering(self.layer, rows)
        return self._resumption.step(self.layer, hidden, rows, {"matrix": add})[:, -1].float()
