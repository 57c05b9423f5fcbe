"""The form that writes a fact."""

from typing import Any

from .....engine.jobs.devices import list_devices
from .....engine.jobs.specs import EditSpec
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from .....store.facts.sets import clean_target, make_template
from ....cli_equivalent import run_edit
from ....presentation.wording import format_cost_line
from ...data.edits import resolve_target
from ..base.form import Field, Form


class EditForm(Form[EditSpec]):
    """One request: the prompt, its subject, what the model shall say there."""

    title_text = "Edit: make the model say something else"

    def __init__(
        self,
        catalog: Catalog,
        model: str | None,
        *,
        prompt: str = "",
        subject: str = "",
        target_true: str = "",
        layer: int | None = None,
    ) -> None:
        super().__init__()
        self._catalog = catalog
        self._values = {
            "model": model or "",
            "prompt": prompt,
            "subject": subject,
            "true": target_true,
            "layer": "" if layer is None else str(layer),
        }

    def fields(self) -> list[Field]:
        from .....engine.jobs.settings import METHODS

        given = self._values
        return [
            Field("model", "model", given["model"], "MODEL or MODEL@REVISION"),
            Field("prompt", "prompt", given["prompt"], "e.g. The Eiffel Tower is located in the city of"),
            Field("subject", "subject", given["subject"], "e.g. The Eiffel Tower"),
            Field("target", "new answer", hint="e.g. Rome"),
            Field("true", "true answer", given["true"], "what it says now; scores compare with it"),
            Field("method", "method", "r-rome", ", ".join(METHODS)),
            Field("layer", "layer", given["layer"], "by default the model's preset"),
        ]

    def read(self, values: dict[str, str]) -> EditSpec:
        from .....engine.jobs.settings import check_method

        model, revision, layers = resolve_target(self._catalog, values["model"])
        prompt, subject = values["prompt"].strip(), values["subject"].strip()
        template = make_template(prompt, subject)
        layer = values["layer"].strip()
        if layer and (not layer.isdecimal() or int(layer) >= layers):
            raise InputError(f"layer is a number from 0 to {layers - 1}, or empty for the model's preset")
        method = values["method"].strip()
        check_method(method)
        if not values["target"].strip():
            raise InputError("give the new answer: what the model shall say after the prompt")
        true = values["true"].strip()
        request: dict[str, Any] = {
            "subject": subject,
            "prompt": template,
            "target_new": clean_target(values["target"], "the new answer"),
            "target_true": true or None,
            "eval_paraphrases": [],
            "neighbors": [],
        }
        hparams = {"layers": [int(layer)]} if layer else {}
        return EditSpec(model, [request], revision, method, hparams)

    def cost(self, value: EditSpec) -> str:
        from .....engine.jobs.cost import estimate_cost

        return format_cost_line(estimate_cost(self._catalog, value, list_devices()[0]))

    def cli_equivalent(self, value: EditSpec) -> str:
        return run_edit(value, self.values()["model"].strip())
