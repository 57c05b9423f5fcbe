"""The form that starts a trace."""

from .....engine.jobs.devices import list_devices
from .....engine.jobs.specs import TraceSpec
from .....engine.tracing.rules import KINDS
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....actions.trace import build_trace_spec
from ....actions.values import MAX_LAYERS, MAX_SAMPLES, MAX_SEED, TOKENS, parse_integer, parse_kinds
from ....cli_equivalent import run_trace
from ....presentation.wording import format_cost_line
from ..base.form import Field, Form

_DEFAULTS = TraceSpec("")


class TraceForm(Form[TraceSpec]):
    """One prompt with its subject or a set of facts, the kinds of restored states, and the corruption."""

    title_text = "Trace: locate a fact in the model"

    def __init__(self, catalog: Catalog, model: str | None, prompt: str = "", subject: str = "") -> None:
        super().__init__()
        self._catalog, self._model, self._prompt, self._subject = catalog, model or "", prompt, subject

    def fields(self) -> list[Field]:
        return [
            Field("model", "model", self._model, "MODEL or MODEL@REVISION"),
            Field("prompt", "prompt", self._prompt, "e.g. The Eiffel Tower is located in the city of"),
            Field("subject", "subject", self._subject, "e.g. The Eiffel Tower"),
            Field("facts", "or fact set", hint="a name of `retcon facts list`, instead of a prompt"),
            Field("kinds", "kinds", ",".join(_DEFAULTS.kinds), ",".join(KINDS)),
            Field(
                "noise",
                "noise",
                _DEFAULTS.noise,
                "3s, 0.4, u0.5 (uniform), m (multivariate) or t3 (Student's t)",
            ),
            Field(
                "texts", "texts", _DEFAULTS.texts, "texts to fit m and t to: a file, a hub data set, shipped"
            ),
            Field("replace", "replace", "no", "yes: noise replaces the embeddings instead of being added"),
            Field("swap", "or swap for", hint="a subject with as many tokens; for a fact set: auto"),
            Field("samples", "samples", str(_DEFAULTS.samples), "number of noise samples"),
            Field(
                "window",
                "window",
                str(_DEFAULTS.window),
                "number of layers restored together for mlp and attn",
            ),
            Field("seed", "seed", str(_DEFAULTS.seed), "seed of the noise"),
            Field("tokens", "tokens", _DEFAULTS.tokens, " or ".join(TOKENS)),
            Field("expect", "expect", hint="the answer must start with this; optional"),
        ]

    def read(self, values: dict[str, str]) -> TraceSpec:
        typed = {name: value.strip() for name, value in values.items()}
        if typed["replace"] not in ("yes", "no"):
            raise InputError("replace must be yes (noise replaces the embeddings) or no (noise is added)")
        draft = TraceSpec(
            model=typed["model"], facts=typed["facts"], prompt=typed["prompt"], subject=typed["subject"],
            expected=typed["expect"], kinds=parse_kinds(typed["kinds"]), noise=typed["noise"], texts=typed["texts"],
            replace=typed["replace"] == "yes", swap=typed["swap"],
            samples=parse_integer("samples", typed["samples"], 1, MAX_SAMPLES),
            window=parse_integer("window", typed["window"], 1, MAX_LAYERS),
            seed=parse_integer("seed", typed["seed"], 0, MAX_SEED), tokens=typed["tokens"],
        )  # fmt: skip
        return build_trace_spec(self._catalog, draft)

    def cost(self, value: TraceSpec) -> str:
        from .....engine.jobs.cost import estimate_cost

        return format_cost_line(estimate_cost(self._catalog, value, list_devices()[0]))

    def cli_equivalent(self, value: TraceSpec) -> str:
        return run_trace(value, self.values()["model"].strip())
