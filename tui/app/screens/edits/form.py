"""The form that starts an edit."""

from .....engine.jobs.specs import EditSpec
from .....store.catalog.catalog import Catalog
from ....actions.edit import build_edit_spec
from ....actions.values import parse_layers
from ....cli_equivalent import run_edit
from ....presentation.wording import format_cost_line
from ..base.form import Field, Form


class EditForm(Form[EditSpec]):
    """One request: prompt, subject and new target."""

    title_text = "Edit: change what the model says"

    def __init__(
        self, catalog: Catalog, model: str | None, *, prompt: str = "", subject: str = "", target_true: str = "",
        layer: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._catalog = catalog
        self._values = {"model": model or "", "prompt": prompt, "subject": subject, "true": target_true}
        self._values["layer"] = "" if layer is None else str(layer)

    def fields(self) -> list[Field]:
        from .....engine.edits import METHODS

        values = self._values
        return [
            Field("model", "model", values["model"], "MODEL or MODEL@REVISION"),
            Field("prompt", "prompt", values["prompt"], "e.g. The Eiffel Tower is located in the city of"),
            Field("subject", "subject", values["subject"], "e.g. The Eiffel Tower"),
            Field("target", "new answer", hint="e.g. Rome"),
            Field("true", "true answer", values["true"], "the current answer; scores compare with it"),
            Field("method", "method", "r-rome", ", ".join(METHODS)),
            Field("layer", "layer", values["layer"], "by default the model's preset"),
        ]

    def read(self, values: dict[str, str]) -> EditSpec:
        typed = {name: value.strip() for name, value in values.items()}
        request = {
            "prompt": typed["prompt"],
            "subject": typed["subject"],
            "target_new": typed["target"] or None,
            "target_true": typed["true"] or None,
        }
        hparams = {"layers": parse_layers(typed["layer"])} if typed["layer"] else {}
        draft = EditSpec(typed["model"], [], method=typed["method"], hparams=hparams)
        return build_edit_spec(self._catalog, draft, request)

    def cost(self, value: EditSpec) -> str:
        from .....engine.jobs.cost import estimate_cost
        from .....engine.jobs.devices import list_devices

        return format_cost_line(estimate_cost(self._catalog, value, list_devices()[0]))

    def cli_equivalent(self, value: EditSpec) -> str:
        return run_edit(value, self.values()["model"].strip())
