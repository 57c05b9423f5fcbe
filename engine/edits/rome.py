"""ROME (Meng et al. 2022) and its correction r-ROME (Gupta et al. 2024): one fact, one rank-one update.

    W' = W + L u^T / (k.u),   u = C^-1 k,   L = v* - W k

k is the key at the subject's last token; v* is W k + d with the d that makes the model say the target. The
published ROME averages k over contexts for u but divides by the bare prompt's k; r-ROME uses the average for both,
which stops single edits from breaking the model.
"""

from ..errors import InputError
from ..model.delta import Factors
from ..progress import Progress
from .hparams import Hparams
from .method import Task, Written
from .value_search import find_values


class Rome:
    """As published: the averaged key gives the direction, the bare prompt's key the scale."""

    name = "rome"
    batch: int | None = 1
    scale_by_average = False

    def layers(self, hparams: Hparams) -> list[int]:
        return [self._layer(hparams)] if hparams.mom2_adjustment else []

    def write(self, task: Task) -> Written:
        decoder, tokenizer, requests, hparams = task.decoder, task.tokenizer, task.requests, task.hparams
        layer = self._layer(hparams)
        if len(requests) != 1:
            raise ValueError(f"{self.name} writes one request at a time, not {len(requests)}")
        about = requests[0].subject

        def step(_done: int, share: float, loss: float) -> None:
            task.report(Progress(share, 1, "requests", f"searching the value for {about}: loss {loss:.3f}"))

        [value] = find_values(
            decoder, tokenizer, requests, layer, hparams, task.contexts, step, "matrix", task.kept
        )
        key = value.keys.double().mean(0)
        direction = key
        if hparams.mom2_adjustment:
            direction = task.moments[layer].solve(key[:, None])[:, 0].to(key.device)
        direction = direction / direction.norm()
        at = slice(None) if self.scale_by_average else slice(1)  # all contexts, or the bare prompt
        scale = value.keys[at].double().mean(0) @ direction
        lack = value.initial.double() + value.delta.double() - value.outputs[at].double().mean(0)
        b = (lack / scale).float().cpu()
        delta = {decoder.anatomy.weight_name(layer): Factors(b[:, None], direction.float().cpu()[None])}
        return Written(delta, [value.figures() | {"key_dot_direction": scale.item()}])

    def _layer(self, hparams: Hparams) -> int:
        if len(hparams.layers) != 1:
            raise InputError(f"{self.name} edits exactly one layer, not {list(hparams.layers)}")
        return hparams.layers[0]


class RRome(Rome):
    """The corrected form: the averages over the contexts on both sides."""

    name = "r-rome"
    scale_by_average = True
