"""The base classes of the methods' settings: types, defaults, bounds, and the published values that retcon honors."""

import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import InputError

# Fields of published files that do not change an edit: retcon finds these parts and inputs itself, or has an option
# of its own for them (`--batch`, `--device`, `contexts`, `covariance run`).
_WITHOUT_EFFECT = frozenset({
    "alg_name", "model_name", "stats_dir", "P_loc", "device", "model_parallel", "fp16", "batch_size", "max_length",
    "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module", "lm_head_module", "mom2_dataset",
    "mom2_n_samples", "mom2_dtype", "context_template_length_params", "config_n_positions", "config_n_embeddings",
})  # fmt: skip

# Field of published files -> the only value that retcon honors, and the reason.
Fixed = dict[str, tuple[Any, str]]

_ROME = "Meng et al. 2022, E.5"
OWN = "measured by retcon, docs/studies"


class Hparams(BaseModel):
    """Settings of an editing method. Unknown fields are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    fixed: ClassVar[Fixed] = {
        "fact_token": ("subject_last", "retcon edits the key at the subject's last token"),
        "layer_selection": ("all", "retcon edits every layer of 'layers'"),
        "bias_update": (False, "retcon does not edit biases"),
        "dynamic": (False, "retcon does not scale the update dynamically"),
        "dynamic_multiplier": (1, "retcon does not scale the update dynamically"),
        "calculate_objective_value": (False, "retcon does not calculate the objective of the solve"),
        "nll_loss_factor": (1, "retcon does not scale the negative log-likelihood"),
        "update_norm_lambda": (0, "retcon does not penalize the norm of the update"),
    }
    # Fields of published files without effect: on retcon, or on the published program either.
    without_effect: ClassVar[frozenset[str]] = _WITHOUT_EFFECT
    # The method whose preset applies if a preset file has none for this method: all of it, or only its layers.
    preset_of: ClassVar[str | None] = None
    layers_of: ClassVar[str | None] = None
    # The method under whose name `--save` stores settings, if it is another.
    saved_under: ClassVar[str | None] = None
    # Requests per call of the method, None for any number.
    max_requests: ClassVar[int | None] = None
    # Whether `layers` must be named. Else no layer means every layer.
    needs_layers: ClassVar[bool] = True
    # Layers that one trial of a sweep edits if neither a file nor a preset says so.
    default_layer_count: ClassVar[int] = 1

    layers: tuple[int, ...] = Field((), strict=False, description="Layers to edit, counted from 0.")
    contexts: int = Field(5, ge=0, description=f"Generated prefixes of the prompt. Published: 20 ({_ROME}).")
    rewrite_module_tmp: str | None = Field(
        None, exclude=True, description="Name of the edited matrix, which must be the model's own."
    )

    @model_validator(mode="before")
    @classmethod
    def _check_published_fields(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        values = {name: value for name, value in data.items() if name not in cls.without_effect}
        for name, (honored, reason) in cls.fixed.items():
            if name in values and (value := values.pop(name)) != honored:
                rule = "left out" if honored is None else f"{honored!r}, not {reprlib.repr(value)}"
                raise ValueError(f"{name!r} must be {rule}: {reason}")
        modules = values.pop("rewrite_module_tmps", None)
        if modules is not None:
            if not isinstance(modules, list) or len(modules) != 1:
                raise ValueError("'rewrite_module_tmps' must name one matrix: retcon edits one per layer")
            values["rewrite_module_tmp"] = modules[0]
        return values

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Self:
        """Build settings from field values.

        Raises:
            InputError: names the place, each wrong field and its value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{where}: {'; '.join(map(_describe, error.errors()))}") from None
        except OverflowError as error:
            raise InputError(f"{where}: a number is too large ({error})") from None

    def with_changes(self, **changes: Any) -> Self:
        """Copy the settings with some fields changed, and check them again. Raises InputError."""
        names = self.field_names()
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return self.parse(values | {names.get(k, k): v for k, v in changes.items()}, "the settings")

    @classmethod
    def field_names(cls) -> dict[str, str]:
        """The name of each field by all its names, old ones included."""
        names: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            aliases = alias.choices if isinstance(alias, AliasChoices) else ()
            names |= dict.fromkeys((name, *map(str, aliases)), name)
        return names

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON."""
        return self.model_dump(mode="json")

    @property
    def steps(self) -> int:
        """The largest number of optimizer steps."""
        raise NotImplementedError


class ValueSearchHparams(Hparams):
    """Settings of the search for a value v*."""

    v_num_grad_steps: int = Field(20, ge=1, description=f"Adam steps ({_ROME}).")
    v_lr: float = Field(0.5, ge=0, description=f"Adam learning rate ({_ROME}).")
    v_loss_layer: int | None = Field(None, ge=0, description="Layer after which the loss is read: the last.")
    v_weight_decay: float = Field(0.5, ge=0, description=f"Weight of |d| / |initial|^2 ({_ROME}).")
    clamp_norm_factor: float = Field(4.0, ge=0, description="Largest |d| / |initial| (rome/hparams/ROME).")
    kl_factor: float = Field(0.0625, ge=0, description=f"Weight of the KL on '{{subject}} is a' ({_ROME}).")

    @property
    def steps(self) -> int:
        return self.v_num_grad_steps


def _describe(error: Any) -> str:
    """One error of pydantic as a sentence about the field and its value."""
    name, value = ".".join(map(str, error["loc"])), reprlib.repr(error["input"])
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if name.partition(".")[0] == "layers":
        return f"'layers' must be a list of layer numbers such as [5], not {value}"
    reason = error["msg"].replace("Input should be", "must be")
    return f"{name!r} is {value}: it {reason}" if reason != error["msg"] else f"{name!r}: {reason}"
