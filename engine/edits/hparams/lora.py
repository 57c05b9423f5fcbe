"""Settings of LoRA (Hu et al. 2022)."""

from typing import ClassVar

from pydantic import AliasChoices, Field

from .base import Fixed, Hparams, TrainingHparams


class LoraHparams(TrainingHparams):
    needs_layers: ClassVar[bool] = False
    fixed: ClassVar[Fixed] = {
        **Hparams.fixed,
        "lora_type": ("lora", "retcon trains plain LoRA"),
        "lora_dropout": (0, "retcon trains without dropout"),
        "norm_constraint": (False, "LoRA is not constrained"),
        "target_modules": (None, "retcon adapts the MLP matrix that an edit rewrites"),
    }

    num_steps: int = Field(50, ge=1, description="Largest number of Adam steps (EasyEdit/hparams/LoRA).")
    lora_rank: int = Field(
        8,
        ge=1,
        validation_alias=AliasChoices("lora_rank", "rank"),
        description="Rank (Hu et al. 2022).",
    )
    lora_alpha: int = Field(16, ge=0, description="Adapters are scaled by this / rank (Hu et al. 2022).")
