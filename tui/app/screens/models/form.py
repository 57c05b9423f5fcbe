"""The form that adds a model."""

import re
from collections.abc import Collection
from pathlib import Path

from .....engine.jobs.specs import ModelSpec
from .....store.errors import InputError
from ....cli_equivalent import add_model
from ....paths import model_source
from ..base.form import Field, Form


class ModelForm(Form[ModelSpec]):
    """Where the weights come from, and what to call them."""

    title_text = "Add a model"

    def __init__(self, taken: Collection[str]) -> None:
        super().__init__()
        self._taken = taken

    def fields(self) -> list[Field]:
        return [
            Field("source", "source", hint="hub id, folder, .gguf, or starter"),
            Field("name", "name", hint="by default the last part of the source"),
        ]

    def read(self, values: dict[str, str]) -> ModelSpec:
        source = values["source"].strip()
        if not source:
            raise InputError("give a source: a hub id (org/name), a folder, a .gguf file, or starter")
        name = values["name"].strip() or Path(source.rstrip("/")).name.removesuffix(".gguf")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-'")
        if name in self._taken:
            raise InputError(f"there is a model named {name!r} already; give another name")
        return ModelSpec(model_source(source), name)

    def cli_equivalent(self, value: ModelSpec) -> str:
        return add_model(value)
