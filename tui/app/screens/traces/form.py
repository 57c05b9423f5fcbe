"""The form that starts a trace."""

from .....engine.jobs.devices import list_devices
from .....engine.jobs.specs import TraceSpec
from .....engine.tracing.rules import KINDS
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from .....store.facts.sets import make_template
from ....cli_equivalent import run_trace
from ....presentation.wording import format_cost_line
from ...data.edits import resolve_target
from ...data.traces import check_fact_set
from ..base.form import Field, Form

_USUAL = TraceSpec("")
_TOKENS = ("all", "subject-last")
_MOST_SAMPLES = 1000
_MOST_LAYERS = 10_000
_MOST_SEED = 2**32 - 1


class TraceForm(Form[TraceSpec]):
    """One prompt with its subject, or a set of facts; what to restore, and how to corrupt."""

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
            Field("kinds", "kinds", ",".join(_USUAL.kinds), ",".join(KINDS)),
            Field(
                "noise",
                "noise",
                _USUAL.noise,
                "3s, 0.4, u0.5 (uniform), m (multivariate) or t3 (Student's t)",
            ),
            Field(
                "texts", "texts", _USUAL.texts, "what m and t are fitted to: a file, a hub data set, shipped"
            ),
            Field("replace", "replace", "no", "yes: noise in the embeddings' place, not added to them"),
            Field("swap", "or swap for", hint="a subject of as many tokens; with a fact set: auto"),
            Field("samples", "samples", str(_USUAL.samples), "draws of the noise"),
            Field("window", "window", str(_USUAL.window), "layers that mlp and attn restore together"),
            Field("seed", "seed", str(_USUAL.seed), "of the noise"),
            Field("tokens", "tokens", _USUAL.tokens, " or ".join(_TOKENS)),
            Field("expect", "expect", hint="refuse to trace unless the answer begins so; may be empty"),
        ]

    def read(self, values: dict[str, str]) -> TraceSpec:
        given = {name: value.strip() for name, value in values.items()}
        model, revision, _ = resolve_target(self._catalog, given["model"])
        facts, prompt, subject = given["facts"], given["prompt"], given["subject"]
        if facts:
            if prompt:
                raise InputError("give either a prompt and its subject, or a fact set: clear one of them")
            check_fact_set(self._catalog, facts)
        else:
            make_template(prompt, subject)
            prompt = prompt.replace("{}", subject)
        kinds = _kinds(given["kinds"])
        noise, swap = _corruption(given["noise"], given["swap"], subject, of_set=bool(facts))
        samples = _number("samples", given["samples"], _MOST_SAMPLES)
        window = _number("window", given["window"], _MOST_LAYERS)
        seed = _number("seed", given["seed"], _MOST_SEED, least=0)
        if given["tokens"] not in _TOKENS:
            raise InputError(f"tokens are {' or '.join(_TOKENS)}")
        if given["replace"] not in ("yes", "no"):
            raise InputError("replace is yes (noise in the embeddings' place) or no (added to them)")
        if facts and given["expect"]:
            raise InputError("a fact set has its own answers: clear what is expected")
        return TraceSpec(
            model, revision, facts=facts or None, prompt=None if facts else prompt, subject=None if facts else subject,
            expected=given["expect"] or None, kinds=kinds, samples=samples, noise=noise, window=window, seed=seed,
            tokens=given["tokens"], replace=given["replace"] == "yes", texts=given["texts"] or _USUAL.texts, swap=swap,
        )  # fmt: skip

    def cost(self, value: TraceSpec) -> str:
        from .....engine.jobs.cost import estimate_cost

        return format_cost_line(estimate_cost(self._catalog, value, list_devices()[0]))

    def cli_equivalent(self, value: TraceSpec) -> str:
        return run_trace(value, self.values()["model"].strip())


def _kinds(text: str) -> list[str]:
    asked = [kind.strip() for kind in text.split(",") if kind.strip()]
    if not asked or any(kind not in KINDS for kind in asked):
        raise InputError(f"kinds are one or more of {', '.join(KINDS)}")
    return [kind for kind in KINDS if kind in asked]


def _corruption(noise: str, swap: str, subject: str, *, of_set: bool) -> tuple[str, str | None]:
    """The noise rule and, instead of it, the other subject."""
    from .....engine.jobs.settings import check_noise

    if not swap:
        check_noise(noise)
        return noise, None
    if noise not in ("", _USUAL.noise):
        raise InputError("corrupt by noise or by another subject: clear one of them")
    if of_set and swap != "auto":
        raise InputError("a set swaps each subject for another one of the set: write auto")
    if not of_set and swap == "auto":
        raise InputError("auto takes another subject of a set; for one prompt, name the other subject")
    if not of_set and swap == subject:
        raise InputError("the other subject is this one; name another")
    return _USUAL.noise, swap


def _number(name: str, text: str, most: int, least: int = 1) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and least <= int(text) <= most):
        raise InputError(f"{name} is a number from {least} to {most}")
    return int(text)
