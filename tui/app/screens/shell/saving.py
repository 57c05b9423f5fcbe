"""Save a figure of the drawing in the current folder, in a thread: matplotlib takes seconds."""

from pathlib import Path

from .....store.catalog.catalog import Catalog
from ....cli_equivalent import command
from ....presentation.format import format_path
from ...data.averages import load_effect_rows
from ...data.traces import ResultView, TraceRow
from ..base.pane import RunAction


def save_result(trace: TraceRow, result: ResultView, kind: str) -> RunAction:
    """Draw the heat map of one fact; estimated cells are hatched."""
    of_set = trace.fact_set is not None
    name = f"trace-{trace.id}-fact-{result.position}-{kind}.png" if of_set else f"trace-{trace.id}-{kind}.png"
    which = ("--fact", result.position, "--out", name) if of_set else ()

    def act() -> str:
        from ....presentation.figures import save_heatmap
        from ....presentation.heatmap import HeatMapData

        path, scores = Path.cwd() / name, result.kinds[kind]
        data = HeatMapData(
            result.tokens, result.subject_range, scores.rows, result.low, result.high, estimated=scores.cells.estimated
        )  # fmt: skip
        save_heatmap(path, data, kind=kind, window=scores.window, answer=result.answer, model=trace.model)
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
