"""Settings of AlphaEdit (Fang et al. 2025)."""

from typing import ClassVar

from pydantic import Field

from .base import Hparams
from .memit import MultiLayerHparams

_PUBLISHED = "AlphaEdit/hparams/AlphaEdit/Llama3-8B.json"


class AlphaEditHparams(MultiLayerHparams):
    preset_of: ClassVar[str | None] = "memit"
    # AlphaEdit's files carry it; its program does not read it.
    without_effect: ClassVar[frozenset[str]] = Hparams.without_effect | {"mom2_update_weight"}

    v_lr: float = Field(0.1, ge=0, description=f"Adam learning rate ({_PUBLISHED}).")
    nullspace_threshold: float = Field(
        0.02, ge=0, description=f"Eigenvalue of C below which a direction is free ({_PUBLISHED})."
    )
    L2: float = Field(10.0, gt=0, description=f"Weight of the identity in the solve ({_PUBLISHED}).")
