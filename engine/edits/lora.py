"""LoRA fine-tuning (Hu et al. 2022) through peft, as a baseline.

Adapters on the MLP matrix that an edit rewrites, at the layers of the settings or at all, trained with Adam on all
requests.
"""

from typing import Any

import torch
from torch import Tensor

from ..model.delta import Factors
from .hparams.training import LoraHparams
from .method import EditResult, EditTask
from .training import train
from .training_batches import TrainingBatches
from .training_examples import build_examples

_ADAPTER = "default"


class Lora:
    name = "lora"

    def layers(self, hparams: LoraHparams) -> list[int]:
        return []

    def write(self, task: EditTask[LoraHparams]) -> EditResult:
        from peft import LoraConfig, LoraModel

        decoder, hparams, anatomy = task.decoder, task.hparams, task.decoder.anatomy
        layers = sorted(set(hparams.layers)) or list(range(decoder.layers))
        batches = TrainingBatches(decoder, build_examples(task), layers[0], hparams.rows)
        config = LoraConfig(
            r=hparams.lora_rank,
            lora_alpha=hparams.lora_alpha,
            target_modules=[anatomy.module_name("matrix", layer) for layer in layers],
            fan_in_fan_out=anatomy.matrix_kind == "conv1d",
        )
        # The first factor of an adapter is random, the second starts at zero.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            adapted = LoraModel(decoder.model, config, _ADAPTER)
        try:
            factors = {layer: self._float32_factors(decoder.part("matrix", layer)) for layer in layers}
            figures = train(batches, [part for pair in factors.values() for part in pair], task)
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
        return EditResult(delta, figures)

    @staticmethod
    def _float32_factors(module: Any) -> tuple[Tensor, Tensor]:
        """Convert the factors A `[rank, key_width]` and B `[width, rank]` of an adapted matrix to float32."""
        parts = (module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight)
        for part in parts:
            part.data = part.data.float()
            part.requires_grad_(True)
        return parts
