"""MEMIT (Meng et al. 2023), and the base class of the methods that edit several layers as it does.

A value search finds the state z at the last edited layer that makes each target likely. Then each layer, from the
lowest up, receives its share of the residual. Keys are read again per layer, because the layers below have changed:

    dW = R A^T,   R = (z - current z) / remaining layers `[width, n]`,   A `[key_width, n]` of the method

MEMIT: A = (w C + K K^T)^-1 K with w = mom2_update_weight. If a norm follows the matrix, R is solved for through the
norm (see output_solver.py).
"""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from ..errors import InputError
from ..model.delta import Delta, Factors, Materializer, concatenate
from ..progress import Progress
from .hparams.memit import MemitHparams, MultiLayerHparams
from .keys import read_keys
from .method import EditResult, EditTask, Value
from .output_solver import OutputSolver, writes_residual_directly
from .value_search import Place, find_values

H = TypeVar("H", bound=MultiLayerHparams)


class MultiLayerMethod(ABC, Generic[H]):
    """Base of MEMIT-like methods. Subclasses differ in the update directions A."""

    name: str
    # Whether `update_directions` receives the keys of earlier facts.
    protects_past = False

    @abstractmethod
    def update_directions(
        self, moment: FactoredMoment, keys: Tensor, past_keys: Tensor, hparams: H
    ) -> Tensor:
        """Compute A `[key_width, n]` float64 at one layer.

        `keys` `[key_width, n]` belong to the requests, `past_keys` `[key_width, m]` to the facts of earlier edits (m
        = 0 unless `protects_past`).
        """

    def layers(self, hparams: H) -> list[int]:
        if not hparams.layers or list(hparams.layers) != sorted(set(hparams.layers)):
            raise InputError(f"{self.name} needs layers in rising order, not {list(hparams.layers)}")
        return list(hparams.layers)

    def write(self, task: EditTask[H]) -> EditResult:
        layers = self.layers(task.hparams)
        targets, values = self._search_targets(task, layers[-1])
        weights = Materializer(task.decoder.model)
        delta: Delta = {}
        residual_norms: list[float] = []
        requests, last, done = task.requests, layers[-1], len(task.requests)
        try:
            for number, layer in enumerate(layers):
                task.report(Progress(done, done, "requests", "writing layers", f"layer {layer}"))
                read = read_keys(task.decoder, task.tokenizer, requests, sorted({layer, last}), task.contexts)
                residual = targets - read.states[last]
                residual_norms.append(residual.norm(dim=-1).mean().item())
                share = residual / self.share_divisor(len(layers) - number, task.hparams)
                keys = read.keys[layer].T.cpu()
                delta[task.decoder.anatomy.weight_name(layer)] = self._layer_delta(task, layer, keys, share)
                weights.set(delta)
            read = read_keys(task.decoder, task.tokenizer, requests, [last], task.contexts)
            residual_norms.append((targets - read.states[last]).norm(dim=-1).mean().item())
        finally:
            weights.set({})
        figures: list[dict[str, Any]] = [
            value.figures() | {"residual_norms": residual_norms} for value in values
        ]
        return EditResult(concatenate([delta]), figures)

    def _search_targets(self, task: EditTask[H], layer: int) -> tuple[Tensor, list[Value]]:
        """Search the values at a layer. Returns the wanted block outputs `[requests, width]` float64 and the values."""
        decoder, count = task.decoder, len(task.requests)

        def report_step(done: int, share: float, loss: float) -> None:
            detail = f"mean loss {loss:.3f}"
            task.report(Progress(done + share, count, "requests", "searching values", detail))

        # If a norm follows the matrix, some block outputs cannot be reached, so the search moves the matrix output.
        place: Place = "block" if decoder.anatomy.mlp_norm is None else "matrix"
        values = find_values(task, layer, report_step, place)
        deltas = torch.stack([value.delta for value in values])
        if place == "block":
            return (torch.stack([value.initial for value in values]) + deltas).double(), values
        solver = OutputSolver(decoder, task.tokenizer, task.requests, layer)
        return solver.block_outputs(deltas).double(), values

    def _layer_delta(self, task: EditTask[H], layer: int, keys: Tensor, share: Tensor) -> Factors:
        """The factors of dW at one layer, for keys `[key_width, n]` and residuals `[n, width]`."""
        decoder, tokenizer = task.decoder, task.tokenizer
        if not writes_residual_directly(decoder.anatomy):
            share = OutputSolver(decoder, tokenizer, task.requests, layer).matrix_changes(share)
        past = task.past_requests if self.protects_past else []
        past_keys = read_keys(decoder, tokenizer, past, [layer], task.contexts).keys[layer].T.cpu()
        try:
            directions = self.update_directions(task.moments[layer], keys, past_keys, task.hparams)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise InputError(
                f"two of the facts have the same key at layer {layer}, and {self.name} with these settings cannot give "
                "it two values: write them with joint, or write only one of them"
            ) from error
        return Factors(share.T.float().cpu().contiguous(), directions.T.float().contiguous())

    @staticmethod
    def share_divisor(layers_left: int, hparams: MultiLayerHparams) -> float:
        """The divisor of the residual: the number of layers left, or its square root as in PMET (Li et al. 2024)."""
        return float(layers_left) if hparams.residual_split == "even" else layers_left**0.5


class Memit(MultiLayerMethod[MemitHparams]):
    name = "memit"

    def update_directions(
        self, moment: FactoredMoment, keys: Tensor, past_keys: Tensor, hparams: MemitHparams
    ) -> Tensor:
        return moment.solve_regularized(keys, hparams.mom2_update_weight)
