"""A picture of what is shown, as a file in the current folder; off the screen's thread, as matplotlib takes seconds."""

from pathlib import Path

from .....store.catalog.catalog import Catalog
from ....cli_equivalent import command
from ....presentation.format import format_path
from ...data.averages import effect_rows
from ...data.traces import ResultView, TraceRow
from ..base.pane import Run


def save_result(trace: TraceRow, result: ResultView, kind: str) -> Run:
    """The heat map of one fact; what is estimated in it is hatched."""
    of_set = trace.fact_set is not None
    name = f"trace-{trace.id}-fact-{result.position}-{kind}.png" if of_set else f"trace-{trace.id}-{kind}.png"
    which = ("--fact", result.position, "--out", name) if of_set else ()

    def act() -> str:
        from ....presentation.figures import save_heatmap

        path, scores = Path.cwd() / name, result.kinds[kind]
        save_heatmap(
            path, result.tokens, result.subject_range, scores.rows, kind=kind, window=scores.window, low=result.low,
            high=result.high, answer=result.answer, model=trace.model, estimated=scores.cells.estimated,
        )  # fmt: skip
        return f"drew {format_path(path)}"

    return Run(command("trace", "plot", trace.id, "--kind", kind, *which), act)


def save_averages(catalog: Catalog, trace: TraceRow) -> Run:
    """The curves of the average effects, a panel for each kind."""
    id, model = trace.id, trace.model

    def act() -> str:
        from ....presentation.figures import effects_title, save_effects

        path, effects = Path.cwd() / f"trace-{id}-effects.png", effect_rows(catalog, id)
        save_effects(path, effects, title=effects_title(model, effects))
        return f"drew {format_path(path)}"

    return Run(command("trace", "plot", id, "--effects"), act)
