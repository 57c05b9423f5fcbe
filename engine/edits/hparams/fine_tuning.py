"""Settings of FT-L (Meng et al. 2022, after Zhu et al. 2020)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from .base import Fixed, Hparams, TrainingHparams

_PUBLISHED = "rome/hparams/FT/gpt2-xl_constr.json"


def _none_if_false(value: Any) -> Any:
    return None if value is False else value


class FineTuningHparams(TrainingHparams):
    layers_of: ClassVar[str | None] = "rome"
    fixed: ClassVar[Fixed] = {
        **Hparams.fixed,
        "wd_power_law": (None, "retcon does not derive the weight decay from the number of facts"),
    }

    num_steps: int = Field(25, ge=1, description=f"Largest number of Adam steps ({_PUBLISHED}).")
    lr: float = Field(5e-4, ge=0, description=f"Adam learning rate ({_PUBLISHED}).")
    norm_constraint: Annotated[float | None, BeforeValidator(_none_if_false)] = Field(
        5e-4, ge=0, description=f"Largest change of a matrix entry, null or false for any ({_PUBLISHED})."
    )
    objective_optimization: Literal["target_new", "prompt_last"] = Field(
        "target_new",
        description="Predict the target teacher-forced, or each token at the prompt's end (EasyEdit, FT).",
    )

    @property
    def predicts_at_prompt_end(self) -> bool:
        return self.objective_optimization == "prompt_last"
