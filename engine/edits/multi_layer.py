"""What MEMIT and its successors share: all requests at once, their change spread over several layers.

The state z that makes each target likely is searched at the last edited layer's output. Then, from the lowest layer up,
each matrix is given its share of what is still lacking there, on keys read anew since the layers below have changed:

    dW = R A^T,   R = (z - current z) / remaining layers `[width, n]`,   A `[key_width, n]`: the method's own

Where a norm stands behind the matrix, R is what must go into the norm for that to come out (see through.py).
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from ..errors import InputError
from ..model.delta import Delta, Factors, Materializer, concatenate
from ..progress import Progress
from .hparams import Hparams
from .keys import read_keys
from .method import Task, Written
from .output_solver import Through, adds_plainly
from .value_search import Place, find_values


class Spread(ABC):
    """A method that differs from the others only in how it writes residuals onto keys."""

    name: str
    batch: int | None = None
    # Whether it wants the keys of facts that were written before.
    protects_earlier = False

    @abstractmethod
    def adjust(self, moment: FactoredMoment, keys: Tensor, earlier: Tensor, hparams: Hparams) -> Tensor:
        """A, what the residuals are written along, `[key_width, n]` float64, at one layer.

        `keys` `[key_width, n]` are those of the requests, `earlier` `[key_width, m]` those of facts written before,
        of a method that protects them.
        """

    def layers(self, hparams: Hparams) -> list[int]:
        if not hparams.layers or list(hparams.layers) != sorted(set(hparams.layers)):
            raise InputError(f"{self.name} edits layers in rising order, not {list(hparams.layers)}")
        return list(hparams.layers)

    def write(self, task: Task) -> Written:
        decoder, tokenizer, requests = task.decoder, task.tokenizer, task.requests
        hparams, contexts = task.hparams, task.contexts
        layers = self.layers(hparams)
        last = layers[-1]

        def step(done: int, share: float, loss: float) -> None:
            task.report(
                Progress(done + share, len(requests), "requests", f"searching values: mean loss {loss:.3f}")
            )

        plain = adds_plainly(decoder.anatomy)
        # Behind a norm not every state can be reached, so the search moves what the matrix puts out.
        place: Place = "block" if decoder.anatomy.mlp_norm is None else "matrix"
        values = find_values(decoder, tokenizer, requests, last, hparams, contexts, step, place, task.kept)
        found = torch.stack([value.delta for value in values])
        if place == "block":
            wanted = (torch.stack([value.initial for value in values]) + found).double()
        else:
            wanted = Through(decoder, tokenizer, requests, last).states(found).double()
        weights = Materializer(decoder.model)
        written: Delta = {}
        lacking: list[float] = []
        try:
            for number, layer in enumerate(layers):
                task.report(Progress(len(requests), len(requests), "requests", f"writing layer {layer}"))
                read = read_keys(decoder, tokenizer, requests, sorted({layer, last}), contexts)
                residual = wanted - read.states[last]
                lacking.append(residual.norm(dim=-1).mean().item())
                share = residual / self.remaining(len(layers) - number, hparams)
                if not plain:
                    share = Through(decoder, tokenizer, requests, layer).changes(share)
                earlier = task.earlier if self.protects_earlier else []
                before = read_keys(decoder, tokenizer, earlier, [layer], contexts).keys[layer].T.cpu()
                along = self._along(task.moments[layer], read.keys[layer].T.cpu(), before, hparams, layer)
                factors = Factors(share.T.float().cpu().contiguous(), along.T.float().contiguous())
                written[decoder.anatomy.weight_name(layer)] = factors
                weights.set(written)
            read = read_keys(decoder, tokenizer, requests, [last], contexts)
            lacking.append((wanted - read.states[last]).norm(dim=-1).mean().item())
        finally:
            weights.set({})
        figures: list[dict[str, Any]] = [value.figures() | {"lacking": lacking} for value in values]
        return Written(concatenate([written]), figures)

    def _along(
        self, moment: FactoredMoment, keys: Tensor, earlier: Tensor, hparams: Hparams, layer: int
    ) -> Tensor:
        try:
            return self.adjust(moment, keys, earlier, hparams)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise InputError(
                f"two of the facts have one key at layer {layer}, and {self.name} with these settings cannot give it "
                "two values: write them with joint, or one of them alone"
            ) from error

    @staticmethod
    def remaining(layers: int, hparams: Hparams) -> float:
        """What a layer's share is divided by: the layers left, or for PMET's spreading their square root."""
        return float(layers) if hparams.spread == "even" else layers**0.5
