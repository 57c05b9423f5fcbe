"""FT-L: fine-tuning of one matrix under a norm constraint, the baseline of Meng et al. 2022 (after Zhu et al. 2020).

Adam on the matrix itself. After each step every entry is clamped to within `norm_constraint` of its old value. The
published program predicts every target token at the prompt's last token (`objective_optimization: prompt_last`); the
default here is teacher-forced.
"""

import torch
from torch import Tensor

from ..model.delta import Factors
from .hparams.training import FineTuningHparams
from .method import EditResult, EditTask
from .training import DeltaFn, train, with_delta
from .training_batches import TrainingBatches
from .training_examples import build_examples


class FineTuning:
    name = "ft-l"

    def layers(self, hparams: FineTuningHparams) -> list[int]:
        return []

    def write(self, task: EditTask[FineTuningHparams]) -> EditResult:
        decoder, bound = task.decoder, task.hparams.norm_constraint
        layers = sorted(set(task.hparams.layers))
        anatomy, device = decoder.anatomy, decoder.device
        batches = TrainingBatches(decoder, build_examples(task), layers[0], task.hparams.rows)
        change = {
            layer: torch.zeros(anatomy.width, anatomy.key_width, device=device, requires_grad=True)
            for layer in layers
        }

        def clamp() -> None:
            if bound is not None:
                for part in change.values():
                    part.clamp_(-bound, bound)

        with with_delta(decoder, {layer: _dense_delta(part) for layer, part in change.items()}):
            figures = train(batches, list(change.values()), task, clamp)
        # Every entry moves by itself, so the change has full rank: B is the identity.
        delta = {
            anatomy.weight_name(layer): Factors(torch.eye(anatomy.width), part.detach().cpu())
            for layer, part in change.items()
        }
        return EditResult(delta, figures)


def _dense_delta(part: Tensor) -> DeltaFn:
    """The change dW itself, `[width, key_width]`."""
    return lambda keys: keys @ part.T
