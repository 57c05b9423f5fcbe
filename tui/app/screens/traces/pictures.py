"""Drawings of trace results and averages, the text line of one cell, and figures in the current folder.

Figures are saved in a thread: matplotlib takes seconds.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from rich.text import Text

from .....engine.tracing.rules import KINDS
from .....store.catalog.catalog import Catalog
from ....cli_equivalent import command
from ....presentation.curves import MARKS, Curve
from ....presentation.format import format_path, plural
from ....presentation.text import sanitize, token_label
from ...data.averages import LAST_SUBJECT, Effects, load_effect_rows
from ...data.traces import ResultView, TraceRow
from ...widgets.drawings import CurvesDrawing, HeatMapDrawing
from ..base.pane import RunAction

_RESTORED = {
    "hidden": "with one state restored",
    "mlp": "with MLP restored",
    "attn": "with attention restored",
    "severed-mlp": "state, MLP severed",
    "severed-attn": "state, attn severed",
}
_WINDOWS = {"mlp": "with MLP of {} layers restored", "attn": "with attention of {} layers restored"}


def draw_result(result: ResultView, kind: str, *, stretch: bool = False) -> HeatMapDrawing:
    """The map of one fact. The scale ends at the clean run, with `stretch` at the highest cell."""
    scores = result.kinds[kind]
    high = result.high
    if stretch:
        high = max((value for row in scores.rows for value in row if value is not None), default=high)
    template = _RESTORED if scores.window == 1 else _RESTORED | _WINDOWS
    what = template[kind].format(scores.window)
    title = f"{_kinds(kind, result.kinds)} · p({sanitize(result.answer.strip())}) {what}"
    return HeatMapDrawing(
        result.tokens, result.subject_range, scores.rows, result.low, high, title, estimated=scores.cells.estimated
    )  # fmt: skip


def draw_effects(effects: Effects, kind: str, kinds: Collection[str]) -> HeatMapDrawing:
    """The map of averages over a fact set: token roles down, layers across."""
    values = [value for row in effects.means for value in row if value is not None]
    subject = sum("subject" in role for role in effects.roles)
    title = f"{_kinds(kind, kinds)} · average indirect effect over {plural(effects.facts, 'fact')}"
    low, high = min(0.0, *values), max(0.0, *values)
    return HeatMapDrawing(effects.roles, (0, subject), effects.means, low, high, title, "AIE")


def draw_curves(averages: Mapping[str, Effects], only: str | None) -> CurvesDrawing:
    """The curves of average effects, one token role at a time: all kinds together, or `only` one."""
    roles = next(iter(averages.values())).roles
    shown = {kind: effects for kind, effects in averages.items() if only in (None, kind)}
    kinds = _kinds(only or "all", ("all", *averages))
    return CurvesDrawing(
        tuple(f"{kinds} · AIE at the {role} token{'s' * (role in _PLURAL_ROLES)}" for role in roles),
        tuple(
            tuple(_curve(kind, effects, number) for kind, effects in shown.items())
            for number in range(len(roles))
        ),
        roles.index(LAST_SUBJECT) if LAST_SUBJECT in roles else 0,
    )


def _curve(kind: str, effects: Effects, role: int) -> Curve:
    means = effects.means[role]
    return Curve(kind, means, tuple(_interval(effects, role, layer) for layer in range(len(means))))


def _interval(effects: Effects, role: int, layer: int) -> tuple[float, float] | None:
    low, high, _ = effects.intervals.get((role, layer), (0.0, 0.0, 0))
    return (low, high) if (role, layer) in effects.intervals else None


def result_text(result: ResultView, kind: str, token: int, layer: int) -> Text:
    """The numbers of the cell under the cursor."""
    begin, end = result.subject_range
    name = token_label(result.tokens[token]).strip() + ("*" if begin <= token < end else "")
    text = Text.assemble((f"{name} · layer {layer}: ", "bold"))
    cells = result.kinds[kind].cells
    value = cells.rows[token][layer]
    if value is None:
        text.append("not traced")
    else:
        text.append("estimate ~" if cells.estimated[token][layer] else "")
        text.append(f"p {value:.4f} ({value - result.low:+.4f})")
    return text.append(f"  clean {result.high:.3f}, corrupted {result.low:.3f}", style="dim")


def effect_text(effects: Effects, token: int, layer: int) -> Text:
    """The numbers of a cell of averages."""
    text = Text.assemble((f"{effects.roles[token]} · layer {layer}: ", "bold"))
    mean = effects.means[token][layer]
    if mean is None:
        return text.append("not traced")
    low, high, count = effects.intervals[token, layer]
    return text.append(f"AIE {mean:+.4f} ({low:+.4f} to {high:+.4f}, {plural(count, 'fact')})")


def curves_text(averages: Mapping[str, Effects], token: int, layer: int) -> Text:
    """The average effects of all kinds at a token role and layer."""
    name = next(iter(averages.values())).roles[token]
    text = Text.assemble((f"{name} · layer {layer}:", "bold"))
    for kind, effects in averages.items():
        mean = effects.means[token][layer]
        text.append(f" {MARKS[kind]} " + ("–" if mean is None else f"{mean:+.3f}"))
    return text


def settings_text(trace: TraceRow, result: ResultView | None) -> Text:
    """The lines below a drawing: prompt, subject, and the settings of the trace."""
    text = Text()
    if result is not None:
        text.append(f"\nprompt   {sanitize(result.prompt)}\nsubject  {sanitize(result.subject)}")
    text.append(f"\n{sanitize(trace.model)}@{trace.revision}, {_corruption(trace)}")
    text.stylize("dim")
    if result is not None and not result.is_complete:
        text.append("\nnot finished: the job replaces estimates by exact scores", style="yellow")
    return text


def _corruption(trace: TraceRow) -> str:
    if trace.swap is not None:
        other = "another one of the set" if trace.swap == "auto" else repr(trace.swap)
        return sanitize(f"subject swapped for {other}")
    level = "" if trace.noise_level is None else f" = {trace.noise_level:.4g}"
    return f"noise {sanitize(trace.noise)}{level}, {trace.samples} samples, seed {trace.seed}"


def save_result(trace: TraceRow, result: ResultView, kind: str) -> RunAction:
    """Draw the heat map of one fact; estimated cells are hatched."""
    of_set = trace.fact_set is not None
    name = f"trace-{trace.id}-fact-{result.position}-{kind}.png" if of_set else f"trace-{trace.id}-{kind}.png"
    which = ("--fact", result.position, "--out", name) if of_set else ()

    def act() -> str:
        from ....presentation.figures import save_heatmap

        path, data = Path.cwd() / name, draw_result(result, kind)
        window = result.kinds[kind].window
        save_heatmap(path, data, kind=kind, window=window, answer=result.answer, model=trace.model)
        return f"drew {format_path(path)}"

    return RunAction(command("trace", "plot", trace.id, "--kind", kind, *which), act)


def save_averages(catalog: Catalog, trace: TraceRow) -> RunAction:
    """Draw the curves of the average effects, one panel per kind."""
    id, model = trace.id, trace.model

    def act() -> str:
        from ....presentation.figures import effects_title, save_effects

        path, effects = Path.cwd() / f"trace-{id}-effects.png", load_effect_rows(catalog, id)
        save_effects(path, effects, title=effects_title(model, effects))
        return f"drew {format_path(path)}"

    return RunAction(command("trace", "plot", id, "--effects"), act)


# Roles that several tokens of a prompt can have.
_PLURAL_ROLES = ("middle subject", "further")


def _kinds(kind: str, kinds: Collection[str]) -> str:
    """`[hidden] mlp attn`: the kinds, with the visible one in brackets."""
    return " ".join(f"[{one}]" if one == kind else one for one in ("all", *KINDS) if one in kinds)
