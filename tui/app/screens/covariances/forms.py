"""The forms that extend covariances and import one from a file."""

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


class ExtendForm(Form[CovarianceSpec]):
    """The number of tokens in total."""

    title_text = "Extend: more text for this covariance"

    def __init__(self, catalog: Catalog, ids: Sequence[int], tokens: int) -> None:
        super().__init__()
        self._catalog, self._ids, self._tokens = catalog, ids, tokens

    def fields(self) -> list[Field]:
        return [
            Field("tokens", "total tokens", str(2 * self._tokens)),
            Field(
                "until",
                "until converged",
                hint="stop when doubling the tokens changes C^-1 k by less, e.g. 0.02",
            ),
        ]

    def read(self, values: dict[str, str]) -> CovarianceSpec:
        tokens = parse_integer("total tokens", values["tokens"], 1, MAX_ID)
        tolerance = parse_tolerance(values["until"])
        return build_covariance_extension(self._catalog, self._ids, tokens, tolerance)

    def cli_equivalent(self, value: CovarianceSpec) -> str:
        return extend_covariance(value)


@dataclass(frozen=True)
class CovarianceFile:
    """A file with the model and layer of its covariance."""

    file: Path
    model: str
    layer: int


class ImportForm(Form[CovarianceFile]):
    """File, model and layer of the covariance to import."""

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

    def read(self, values: dict[str, str]) -> CovarianceFile:
        file, model, layer = (values[name].strip() for name in ("file", "model", "layer"))
        path = expand_path(file)
        if not file or not path_exists(path) or not path.is_file():
            raise InputError("choose a file" if not file else f"file {file} does not exist")
        if not model or not layer.isdecimal():
            raise InputError("choose the model and the number of the layer")
        return CovarianceFile(path, model, int(layer))

    def cli_equivalent(self, value: CovarianceFile) -> str:
        return command(
            "covariance", "import", str(value.file), "--model", value.model, "--layer", value.layer
        )
