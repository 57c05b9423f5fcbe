"""The forms of the covariances pane: more text for one, and one from a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .....engine.jobs.specs import CovarianceSpec
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....actions.covariance import build_covariance_extension
from ....actions.values import MAX_ID, parse_integer, parse_tolerance
from ....cli_equivalent import command, extend_covariance
from ....paths import expand_path, path_exists
from ..base.form import Field, Form


class TopUpForm(Form[CovarianceSpec]):
    """How much text it shall have seen in all."""

    title_text = "Top up: more text for this covariance"

    def __init__(self, catalog: Catalog, ids: Sequence[int], tokens: int) -> None:
        super().__init__()
        self._catalog, self._ids, self._tokens = catalog, ids, tokens

    def fields(self) -> list[Field]:
        return [
            Field("tokens", "tokens in all", str(2 * self._tokens)),
            Field(
                "until",
                "until converged",
                hint="stop when doubling the tokens changes C^-1 k by less, e.g. 0.02",
            ),
        ]

    def read(self, values: dict[str, str]) -> CovarianceSpec:
        tokens = parse_integer("tokens in all", values["tokens"], 1, MAX_ID)
        tolerance = parse_tolerance(values["until"])
        return build_covariance_extension(self._catalog, self._ids, tokens, tolerance)

    def cli_equivalent(self, value: CovarianceSpec) -> str:
        return extend_covariance(value)


@dataclass(frozen=True)
class Import:
    """A file, and what it is said to be of."""

    file: Path
    model: str
    layer: int


class ImportForm(Form[Import]):
    """A covariance from a file."""

    title_text = "Import a covariance"

    def __init__(self, model: str | None) -> None:
        super().__init__()
        self._model = model or ""

    def fields(self) -> list[Field]:
        return [
            Field("file", "file", hint=".safetensors of retcon, or .npz of rome's layer_stats"),
            Field("model", "model", self._model),
            Field("layer", "layer", hint="a number"),
        ]

    def read(self, values: dict[str, str]) -> Import:
        file, model, layer = (values[name].strip() for name in ("file", "model", "layer"))
        path = expand_path(file)
        if not file or not path_exists(path) or not path.is_file():
            raise InputError("name a file that is there" if not file else f"there is no file {file}")
        if not model or not layer.isdecimal():
            raise InputError("name the model, and the number of the layer that it is of")
        return Import(path, model, int(layer))

    def cli_equivalent(self, value: Import) -> str:
        return command(
            "covariance", "import", str(value.file), "--model", value.model, "--layer", value.layer
        )
