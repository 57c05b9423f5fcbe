"""The form that adds a model."""

from .....engine.jobs.specs import ModelSpec
from .....store.catalog.catalog import Catalog
from ....actions.model import build_model_spec
from ....cli_equivalent import add_model
from ..base.form import Field, Form


class ModelForm(Form[ModelSpec]):
    """Source of the weights, and name of the model."""

    title_text = "Add a model"

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog

    def fields(self) -> list[Field]:
        return [
            Field("source", "source", hint="hub id, folder, .gguf, or starter"),
            Field("name", "name", hint="by default the last part of the source"),
        ]

    def read(self, values: dict[str, str]) -> ModelSpec:
        return build_model_spec(self._catalog, values["source"].strip(), values["name"].strip())

    def cli_equivalent(self, value: ModelSpec) -> str:
        return add_model(value)
