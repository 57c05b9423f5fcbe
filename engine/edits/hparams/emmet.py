"""Settings of EMMET (Gupta et al. 2024)."""

from typing import ClassVar

from pydantic import Field

from .memit import MultiLayerHparams


class EmmetHparams(MultiLayerHparams):
    preset_of: ClassVar[str | None] = "memit"

    mom2_update_weight: float = Field(
        1.0, gt=0, description="Factor of C (unified-model-editing/hparams/EMMET)."
    )
    emmet_lambda: float = Field(0.1, ge=0, description="Damping for more than one key (Gupta et al. 2024).")
