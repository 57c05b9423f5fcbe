"""Settings of MEMIT (Meng et al. 2023), and those that all methods for several layers share."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator

from .base import Fixed, Hparams, ValueSearchHparams

_PUBLISHED = "memit/hparams/MEMIT"


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
    # unified-model-editing's MEMIT files carry it; its MEMIT does not read it.
    without_effect: ClassVar[frozenset[str]] = Hparams.without_effect | {"emmet_lambda"}

    mom2_update_weight: float = Field(15_000.0, gt=0, description=f"Weight of C ({_PUBLISHED}).")
