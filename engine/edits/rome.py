"""ROME (Meng et al. 2022) and its correction r-ROME (Gupta et al. 2024): one fact, one rank-one update.

    W' = W + L u^T / (k.u),   u = C^-1 k,   L = v* - W k

k is the key at the subject's last token; v* is W k + d with the d that makes the model say the target. The
published ROME averages k over contexts for u but divides by the bare prompt's k; r-ROME uses the average for both,
which stops single edits from breaking the model. Several requests are written one after another, each on the weights
that the one before left, as the published loop does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..decoder import Decoder
from ..delta import Delta, Factors, Materialiser, concatenate
from ..errors import InputError
from ..hparams import Hparams
from ..progress import Progress, Report
from .method import Request, Written
from .moments import Factored
from .value import find_values


class Rome:
    """As published: the averaged key gives the direction, the bare prompt's key the scale."""

    name = "rome"
    scale_by_average = False

    def layers(self, hparams: Hparams) -> list[int]:
        return [self._layer(hparams)] if hparams.mom2_adjustment else []

    def write(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        moments: Mapping[int, Tensor],
        hparams: Hparams,
        contexts: Sequence[str],
        report: Report,
        earlier: Sequence[Request] = (),
    ) -> Written:
        layer = self._layer(hparams)
        moment = Factored(moments[layer]) if hparams.mom2_adjustment else None
        # Later requests see the weights that earlier ones left; the caller's weights come back in the end.
        weights = Materialiser(decoder.model)
        written: list[Delta] = []
        figures: list[dict[str, Any]] = []
        try:
            for number, request in enumerate(requests):

                def step(
                    _done: int, share: float, loss: float, number: int = number, about: str = request.subject
                ) -> None:
                    what = f"searching the value for {about}: loss {loss:.3f}"
                    report(Progress(number + share, len(requests), "requests", what))

                [value] = find_values(decoder, tokenizer, [request], layer, hparams, contexts, step)
                key = value.keys.double().mean(0)
                direction = moment.solve(key[:, None])[:, 0].to(key.device) if moment is not None else key
                direction = direction / direction.norm()
                at = slice(None) if self.scale_by_average else slice(1)  # all contexts, or the bare prompt
                scale = value.keys[at].double().mean(0) @ direction
                lack = value.initial.double() + value.delta.double() - value.outputs[at].double().mean(0)
                b = (lack / scale).float().cpu()
                delta = {decoder.anatomy.weight(layer): Factors(b[:, None], direction.float().cpu()[None])}
                written.append(delta)
                weights.set(concatenate(written))
                figures.append(value.figures() | {"key_dot_direction": scale.item()})
        finally:
            weights.set({})
        return Written(concatenate(written), figures)

    def _layer(self, hparams: Hparams) -> int:
        if len(hparams.layers) != 1:
            raise InputError(f"{self.name} edits exactly one layer, not {list(hparams.layers)}")
        return hparams.layers[0]


class RRome(Rome):
    """The corrected form: the averages over the contexts on both sides."""

    name = "r-rome"
    scale_by_average = True
