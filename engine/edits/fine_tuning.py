"""FT-L: fine-tuning of one matrix under a norm constraint, the baseline of Meng et al. 2022 (after Zhu et al. 2020).

Adam on the matrix itself; after each step every entry is brought back to within `norm_constraint` of what it was. The
published program predicts every token of a target from the prompt's last position; here the target is
teacher-forced, as everywhere else in retcon.
"""

import torch
from torch import Tensor

from ..model.delta import Factors
from .change import Added, changed
from .hparams import Hparams
from .method import Task, Written
from .training import Course, train
from .training_examples import lesson


class FineTuning:
    name = "ft-l"
    batch: int | None = None

    def layers(self, hparams: Hparams) -> list[int]:
        return []

    def write(self, task: Task) -> Written:
        decoder, hparams = task.decoder, task.hparams
        layers = sorted(set(hparams.layers))
        anatomy, device = decoder.anatomy, decoder.device
        course = Course(decoder, lesson(task), layers[0], hparams.rows)
        change = {
            layer: torch.zeros(anatomy.width, anatomy.key_width, device=device, requires_grad=True)
            for layer in layers
        }

        def project() -> None:
            for part in change.values():
                part.clamp_(-hparams.norm_constraint, hparams.norm_constraint)

        with changed(decoder, {layer: dense(part) for layer, part in change.items()}):
            figures = train(course, list(change.values()), task, project)
        # Every entry moves by itself, so the change has full rank: B is the identity.
        delta = {
            anatomy.weight_name(layer): Factors(torch.eye(anatomy.width), part.detach().cpu())
            for layer, part in change.items()
        }
        return Written(delta, figures)


def dense(part: Tensor) -> Added:
    """The change dW itself, `[width, key_width]`."""
    return lambda keys: keys @ part.T
