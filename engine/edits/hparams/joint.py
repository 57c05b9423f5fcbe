"""Settings of the joint method. Defaults: retcon's own measurements (docs/studies)."""

from typing import ClassVar, Literal

from pydantic import Field

from .base import TrainingHparams


class JointHparams(TrainingHparams):
    layers_of: ClassVar[str | None] = "rome"

    weight_decay: float = Field(0.1, ge=0, description="Weight of |B|^2.")
    kl_factor: float = Field(0.0625, ge=0, description="Weight of the KL divergence on the preservation set.")
    keys: Literal["request", "subject"] = Field(
        "request", description="Keys that the change is written over: the whole request's, or the subject's."
    )
    key_tolerance: float = Field(
        1e-6, ge=0, description="Directions below this share of the largest one are left out."
    )
    bf16: bool = Field(False, description="Whether the passes of the training run in bfloat16.")

    @property
    def uses_subject_keys(self) -> bool:
        return self.keys == "subject"
