"""ROME (Meng et al. 2022) and its correction r-ROME (Gupta et al. 2024): one fact, one rank-one update.

    W' = W + L u^T / (k.u),   u = C^-1 k,   L = v* - W k

k is the key at the subject's last token. v* is W k + d, with the d that makes the model predict the target. The
published ROME averages k over contexts for u, but divides by the k of the bare prompt. r-ROME uses the average for
both, which prevents single edits that break the model.
"""

from ..errors import InputError
from ..model.delta import Factors
from ..progress import Progress
from .hparams.rome import RomeHparams
from .method import EditResult, EditTask
from .value_search import find_values


class Rome:
    """As published: the direction comes from the average key, the scale from the bare prompt's key."""

    name = "rome"
    scale_by_average = False

    def layers(self, hparams: RomeHparams) -> list[int]:
        return [self._layer(hparams)] if hparams.mom2_adjustment else []

    def write(self, task: EditTask[RomeHparams]) -> EditResult:
        layer = self._layer(task.hparams)
        if len(task.requests) != 1:
            raise ValueError(f"{self.name} writes one request at a time, not {len(task.requests)}")
        subject = task.requests[0].subject

        def report_step(_done: int, share: float, loss: float) -> None:
            detail = f"{subject}, loss {loss:.3f}"
            task.report(Progress(share, 1, "requests", "searching the value", detail))

        [value] = find_values(task, layer, report_step, "matrix")
        key = value.keys.double().mean(0)
        direction = key
        if task.hparams.mom2_adjustment:
            direction = task.moments[layer].solve(key[:, None])[:, 0].to(key.device)
        direction = direction / direction.norm()
        # All contexts, or the bare prompt.
        contexts = slice(None) if self.scale_by_average else slice(1)
        scale = value.keys[contexts].double().mean(0) @ direction
        residual = value.initial.double() + value.delta.double() - value.outputs[contexts].double().mean(0)
        b = (residual / scale).float().cpu()
        delta = {task.decoder.anatomy.weight_name(layer): Factors(b[:, None], direction.float().cpu()[None])}
        return EditResult(delta, [value.figures() | {"key_dot_direction": scale.item()}])

    def _layer(self, hparams: RomeHparams) -> int:
        if len(hparams.layers) != 1:
            raise InputError(f"{self.name} edits exactly one layer, not {list(hparams.layers)}")
        return hparams.layers[0]


class RRome(Rome):
    """The corrected form: averages over the contexts on both sides."""

    name = "r-rome"
    scale_by_average = True
