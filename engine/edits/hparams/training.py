"""Settings of the methods that train a weight change: the joint method, FT-L and LoRA."""

from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from .base import OWN, Fixed, Hparams

_ROME_FT = "rome/hparams/FT/gpt2-xl_constr.json"


class TrainingHparams(Hparams):
    """Settings of the methods that train a weight change on all requests."""

    contexts: int = Field(0, ge=0, description=f"Generated prefixes of the prompt ({OWN}).")
    num_steps: int = Field(60, ge=1, description=f"Largest number of Adam steps ({OWN}).")
    lr: float = Field(1e-3, ge=0, description=f"Adam learning rate ({OWN}).")
    weight_decay: float = Field(0.0, ge=0, description="Weight of the squared norm of the parameters.")
    kl_factor: float = Field(0.0, ge=0, description="Weight of the KL on the preservation set.")
    rows: int = Field(0, ge=0, description=f"Number of fact prompts per training step; 0 uses all ({OWN}).")
    epochs: int = Field(0, ge=0, description=f"Passes over new facts, 0 for num_steps steps ({OWN}).")
    preserved_rows: int = Field(
        0,
        ge=0,
        validation_alias=AliasChoices("preserved_rows", "kept_rows"),
        description=f"Rows of texts, unrelated subjects and other prompts to preserve per step ({OWN}).",
    )

    @property
    def steps(self) -> int:
        return self.num_steps

    @property
    def uses_subject_keys(self) -> bool:
        """Whether only the keys of the subject's tokens are written, not those of the whole request."""
        return False

    @property
    def predicts_at_prompt_end(self) -> bool:
        """Whether every target token is predicted at the prompt's last token instead of teacher-forced."""
        return False


class JointHparams(TrainingHparams):
    """Settings of the joint method."""

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


class FineTuningHparams(TrainingHparams):
    """Settings of FT-L (Meng et al. 2022, after Zhu et al. 2020)."""

    layers_of: ClassVar[str | None] = "rome"
    fixed: ClassVar[Fixed] = {
        **Hparams.fixed,
        "wd_power_law": (None, "retcon does not derive the weight decay from the number of facts"),
    }

    num_steps: int = Field(25, ge=1, description=f"Largest number of Adam steps ({_ROME_FT}).")
    lr: float = Field(5e-4, ge=0, description=f"Adam learning rate ({_ROME_FT}).")
    norm_constraint: Annotated[
        float | None, BeforeValidator(lambda value: None if value is False else value)
    ] = Field(
        5e-4, ge=0, description=f"Largest change of a matrix entry, null or false for any ({_ROME_FT})."
    )
    objective_optimization: Literal["target_new", "prompt_last"] = Field(
        "target_new",
        description="Predict the target teacher-forced, or each token at the prompt's end (EasyEdit, FT).",
    )

    @property
    def predicts_at_prompt_end(self) -> bool:
        return self.objective_optimization == "prompt_last"


class LoraHparams(TrainingHparams):
    """Settings of LoRA (Hu et al. 2022)."""

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
