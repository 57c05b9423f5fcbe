"""Solve for the change of a matrix's output that causes a wanted change of its block's output.

In most models both are equal, because the block adds the matrix output to the residual stream. In some models a norm
follows the matrix (Gemma 2 and 3, OLMo 2) or the sum is scaled (Granite). Then Newton's method runs on the block
itself, at the subject's last token, with least squares in the directions that the norm removes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..model.anatomy import Anatomy
from ..model.decoder import Decoder
from ..model.tokens import pad_aligned
from .method import Request

_MAX_STEPS = 10
# The residual, relative to the wanted change, at which a solution is accepted.
_TOLERANCE = 1e-6
# Singular values below this share of the largest belong to directions that the norm removes.
_RCOND = 1e-3


def writes_residual_directly(anatomy: Anatomy) -> bool:
    """Whether a change of the matrix's output changes the block's output by the same amount."""
    return anatomy.additive and anatomy.mlp_norm is None


class OutputSolver:
    """One block at the last subject tokens of the requests' bare prompts, with the current weights."""

    def __init__(
        self, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], layer: int
    ) -> None:
        rows = [located.ids[: located.end] for located in (one.locate(tokenizer) for one in requests)]
        ids, mask = pad_aligned(rows, [len(row) - 1 for row in rows], decoder.device)
        run = decoder.run(ids, mask, stop_after=layer)
        self._resumption = decoder.resume(run, ids.shape[1] - 1)
        self._layer, self._count = layer, len(rows)
        self._width, self._device = decoder.anatomy.width, decoder.device

    def block_outputs(self, changes: Tensor) -> Tensor:
        """The block's outputs `[requests, width]` float32, given changes `[requests, width]` of the matrix's output."""
        with torch.no_grad():
            return self._run_block(changes.float(), torch.arange(self._count, device=self._device))

    def matrix_changes(self, wanted: Tensor) -> Tensor:
        """The changes of the matrix's output that change the block's by `wanted`, both `[requests, width]` float64."""
        zero = torch.zeros(self._count, self._width, device=self._device)
        goals = self.block_outputs(zero).double() + wanted.double()
        return torch.stack([self._solve(i, goals[i], wanted[i].norm().item()) for i in range(self._count)])

    def _solve(self, number: int, goal: Tensor, size: float) -> Tensor:
        """Newton's method for one request. Returns the change with the smallest residual."""
        change = best = torch.zeros(self._width, dtype=torch.float64, device=self._device)
        smallest = float("inf")
        for _ in range(_MAX_STEPS):
            state, jacobian = self._linearize(number, change)
            residual = goal - state
            if residual.norm().item() >= smallest:
                break
            best, smallest = change, residual.norm().item()
            if smallest <= _TOLERANCE * size:
                break
            solved = torch.linalg.lstsq(jacobian.cpu(), residual.cpu()[:, None], rcond=_RCOND, driver="gelsd")
            change = change + solved.solution[:, 0].to(self._device)
        return best

    def _linearize(self, number: int, change: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output `[width]` and its Jacobian `[out, in]` with respect to the matrix's output, float64.

        The request's row is repeated once per output, so that one backward pass gives the whole Jacobian.
        """
        rows = torch.full((self._width,), number, device=self._device)
        changes = change.float().expand(self._width, -1).clone().requires_grad_(True)
        states = self._run_block(changes, rows)
        (jacobian,) = torch.autograd.grad(states.diagonal().sum(), changes)
        return states[0].detach().double(), jacobian.double()

    def _run_block(self, changes: Tensor, rows: Tensor) -> Tensor:
        def add(output: Tensor) -> Tensor:
            return (output[:, 0].float() + changes).to(output.dtype)[:, None]

        hidden = self._resumption.states_entering(self._layer, rows)
        return self._resumption.step(self._layer, hidden, rows, {"matrix": add})[:, -1].float()
