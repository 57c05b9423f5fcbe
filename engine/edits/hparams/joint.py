"""Settings of the joint method."""

from typing import ClassVar, Literal

from pydantic import Field

from .base import OWN, TrainingHparams


class JointHparams(TrainingHparams):
    layers_of: ClassVar[str | None] = "rome"

    weight_decay: float = Field(0.1, ge=0, description=f"Weight of |B|^2 ({OWN}).")
    kl_factor: float = Field(0.0625, ge=0, description="Weight of the KL on the preservation set (as ROME).")
    keys: Literal["request", "subject"] = Field(
        "request", description=f"Tokens whose keys are written ({OWN})."
    )
    key_tolerance: float = Field(1e-6, ge=0, description=f"Least share of a direction of the keys ({OWN}).")
    bf16: bool = Field(False, description="Whether the passes of the training run in bfloat16.")

    @property
    def uses_subject_keys(self) -> bool:
        return self.keys == "subject"
