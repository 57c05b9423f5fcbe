"""Settings of the methods that edit several layers: MEMIT, EMMET and AlphaEdit."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator

from .base import Fixed, Hparams, ValueSearchHparams

_PUBLISHED = "memit/hparams/MEMIT"
_ALPHAEDIT = "AlphaEdit/hparams/AlphaEdit/Llama3-8B.json"


class MultiLayerHparams(ValueSearchHparams):
    default_layer_count: ClassVar[int] = 5
    fixed: ClassVar[Fixed] = {
        **Hparams.fixed,
        "mom2_adjustment": (True, "this method always uses the second moment"),
    }

    v_num_grad_steps: int = Field(25, ge=1, description=f"Adam steps ({_PUBLISHED}).")
    clamp_norm_factor: float = Field(0.75, ge=0, description=f"Largest |d| / |initial| ({_PUBLISHED}).")
    residual_split: Literal["even", "sqrt"] = Field(
        "even",
        validation_alias=AliasChoices("residual_split", "spread"),
        description="A layer receives the residual / layers left (MEMIT) or / its square root (PMET, Li et al. 2024).",
    )

    @model_validator(mode="before")
    @classmethod
    def _split_as_pmet(cls, data: Any) -> Any:
        is_pmet = isinstance(data, Mapping) and data.get("alg_name") == "PMET"
        return {"residual_split": "sqrt"} | dict(data) if is_pmet else data


class MemitHparams(MultiLayerHparams):
    """Settings of MEMIT (Meng et al. 2023)."""

    # unified-model-editing's MEMIT files carry it; its MEMIT does not read it.
    without_effect: ClassVar[frozenset[str]] = Hparams.without_effect | {"emmet_lambda"}

    mom2_update_weight: float = Field(15_000.0, gt=0, description=f"Weight of C ({_PUBLISHED}).")


class EmmetHparams(MultiLayerHparams):
    """Settings of EMMET (Gupta et al. 2024)."""

    preset_of: ClassVar[str | None] = "memit"

    mom2_update_weight: float = Field(
        1.0, gt=0, description="Factor of C (unified-model-editing/hparams/EMMET)."
    )
    emmet_lambda: float = Field(0.1, ge=0, description="Damping for more than one key (Gupta et al. 2024).")


class AlphaEditHparams(MultiLayerHparams):
    """Settings of AlphaEdit (Fang et al. 2025)."""

    preset_of: ClassVar[str | None] = "memit"
    # AlphaEdit's files carry it; its program does not read it.
    without_effect: ClassVar[frozenset[str]] = Hparams.without_effect | {"mom2_update_weight"}

    v_lr: float = Field(0.1, ge=0, description=f"Adam learning rate ({_ALPHAEDIT}).")
    nullspace_threshold: float = Field(
        0.02, ge=0, description=f"Eigenvalue of C below which a direction is free ({_ALPHAEDIT})."
    )
    L2: float = Field(10.0, gt=0, description=f"Weight of the identity in the solve ({_ALPHAEDIT}).")
