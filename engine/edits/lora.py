"""LoRA fine-tuning (Hu et al. 2022) through peft: what most people would try first, as a baseline.

Adapters on the matrix that an edit rewrites, in the layers named or in every one, trained with Adam on all requests.
"""

from typing import Any

import torch
from torch import Tensor

from ..model.delta import Factors
from .hparams import Hparams
from .method import Task, Written
from .training import Course, train
from .training_examples import lesson

_ADAPTER = "default"


class Lora:
    name = "lora"
    batch: int | None = None

    def layers(self, hparams: Hparams) -> list[int]:
        return []

    def write(self, task: Task) -> Written:
        decoder, hparams = task.decoder, task.hparams
        from peft import LoraConfig, LoraModel

        anatomy = decoder.anatomy
        layers = sorted(set(hparams.layers)) or list(range(decoder.layers))
        course = Course(decoder, lesson(task), layers[0], hparams.rows)
        config = LoraConfig(
            r=hparams.lora_rank,
            lora_alpha=hparams.lora_alpha,
            target_modules=[anatomy.module_name("matrix", layer) for layer in layers],
            fan_in_fan_out=anatomy.matrix_kind == "conv1d",
        )
        # The first factor of an adapter is drawn at random; the second starts at zero.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            adapted = LoraModel(decoder.model, config, _ADAPTER)
        try:
            factors = {layer: self._factors(decoder.part("matrix", layer)) for layer in layers}
            parameters = [part for pair in factors.values() for part in pair]
            figures = train(course, parameters, task)
            scale = hparams.lora_alpha / hparams.lora_rank
            delta = {
                anatomy.weight_name(layer): Factors(
                    (b.detach().float() * scale).cpu().clone(), a.detach().float().cpu().clone()
                )
                for layer, (a, b) in factors.items()
            }
        finally:
            adapted.unload()
            decoder.model.requires_grad_(False)
        return Written(delta, figures)

    @staticmethod
    def _factors(module: Any) -> tuple[Tensor, Tensor]:
        """A `[rank, key_width]` and B `[width, rank]` of an adapted matrix, made float32 whatever the model is in."""
        parts = (module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight)
        for part in parts:
            part.data = part.data.float()
            part.requires_grad_(True)
        return parts
