"""The form that starts a trace."""

from ...engine.jobs import TraceSpec
from ...store.catalog import Catalog
from ...store.errors import InputError
from ...store.facts import template_of
from ..data.edits import resolve
from ..data.traces import KINDS, fact_set_size
from ..twin import run_trace
from .form import Field, Form


class TraceForm(Form[TraceSpec]):
    """One prompt with its subject, or a set of facts."""

    title_text = "Trace: where does the model keep a fact?"

    def __init__(self, catalog: Catalog, model: str | None, prompt: str = "", subject: str = "") -> None:
        super().__init__()
        self._catalog, self._model, self._prompt, self._subject = catalog, model or "", prompt, subject

    def fields(self) -> list[Field]:
        return [
            Field("model", "model", self._model, "MODEL or MODEL@REVISION"),
            Field("prompt", "prompt", self._prompt, "e.g. The Eiffel Tower is located in the city of"),
            Field("subject", "subject", self._subject, "e.g. The Eiffel Tower"),
            Field("facts", "or fact set", hint="a name of `retcon facts list`, instead of a prompt"),
            Field("kinds", "kinds", ",".join(KINDS)),
        ]

    def read(self, values: dict[str, str]) -> TraceSpec:
        model, revision, _ = resolve(self._catalog, values["model"])
        asked = [kind.strip() for kind in values["kinds"].split(",") if kind.strip()]
        if not asked or any(kind not in KINDS for kind in asked):
            raise InputError(f"kinds are one or more of {', '.join(KINDS)}")
        kinds = [kind for kind in KINDS if kind in asked]
        facts = values["facts"].strip()
        if facts:
            if values["prompt"].strip():
                raise InputError("give either a prompt and its subject, or a fact set: clear one of them")
            fact_set_size(self._catalog, facts)
            return TraceSpec(model, revision, facts=facts, kinds=kinds)
        prompt, subject = values["prompt"].strip(), values["subject"].strip()
        template_of(prompt, subject)
        if "{}" in prompt:
            prompt = prompt.replace("{}", subject)
        return TraceSpec(model, revision, prompt=prompt, subject=subject, kinds=kinds)

    def twin(self, value: TraceSpec) -> str:
        return run_trace(value, self.values()["model"].strip())
