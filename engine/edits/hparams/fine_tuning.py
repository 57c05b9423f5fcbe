"""Settings of FT-L (Meng et al. 2022, after Zhu et al. 2020). Defaults: rome/hparams/FT/gpt2-xl_constr.json."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from .base import Fixed, Hparams, TrainingHparams


class FineTuningHparams(TrainingHparams):
    layers_of: ClassVar[str | None] = "rome"
    fixed: ClassVar[Fixed] = {
        **Hparams.fixed,
        "wd_power_law": (None, "retcon does not derive the weight decay from the number of facts"),
    }

    num_steps: int = Field(25, ge=1, description="Largest number of Adam steps.")
    lr: float = Field(5e-4, ge=0, description="Adam learning rate.")
    norm_constraint: Annotated[
        float | None, BeforeValidator(lambda value: None if value is False else value)
    ] = Field(
        5e-4,
        ge=0,
        description="Largest change of a matrix entry. Published files write false for unconstrained.",
    )
    objective_optimization: Literal["target_new", "prompt_last"] = Field(
        "target_new",
        description="Predict the target teacher-forced, or each token at the prompt's end (EasyEdit, FT).",
    )

    @property
    def predicts_at_prompt_end(self) -> bool:
        return self.objective_optimization == "prompt_last"
