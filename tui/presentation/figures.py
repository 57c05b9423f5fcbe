"""Figures for papers and web pages (PNG, PDF, SVG): heat maps, average effects, convergence curves, sweeps.

matplotlib is imported inside the functions: importing it takes longer than the rest of a command's start.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.atomic_files import write_atomically
from ...store.errors import InputError
from .format import plural
from .heatmap import HeatMapData, merge_attribution
from .text import sanitize, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...store.catalog.tables import AverageEffect, TraceResult

FORMATS = ("png", "pdf", "svg")
# The colors and words of the published figures (Meng et al. 2022, figure 1 and appendix B).
_COLORS = {
    "hidden": "Purples", "mlp": "Greens", "attn": "Reds", "severed-mlp": "Blues", "severed-attn": "Oranges",
}  # fmt: skip
_NAMES = {
    "hidden": "state", "mlp": "MLP", "attn": "Attn", "severed-mlp": "state with MLP severed",
    "severed-attn": "state with Attn severed",
}  # fmt: skip
_WINDOWED = ("mlp", "attn")
_PANELS_PER_ROW = 3
_ROLES = {
    "first subject": "first subject token",
    "middle subject": "middle subject tokens",
    "last subject": "last subject token",
    "first after": "first subsequent token",
    "further": "further tokens",
    "last": "last token",
}
# Distinct for color-blind readers (Wong 2011); the dashes distinguish them in print.
_LINES = (
    ("#0072B2", "-"), ("#56B4E9", "--"), ("#D55E00", "-"), ("#009E73", "-."), ("#CC79A7", ":"), ("#000000", "--"),
)  # fmt: skip


def new_figure(size: tuple[float, float]) -> "Figure":
    """A figure without pyplot, so without a window and without global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def escape_label(text: str) -> str:
    """Text for a figure. matplotlib would read a pair of dollar signs as mathematics, so they are escaped."""
    return token_label(sanitize(text)).replace("$", r"\$")


def check_path(path: Path, formats: Sequence[str] = FORMATS) -> None:
    """Check that a file of one of these formats can be written to `path`.

    Raises:
        InputError: the suffix is not that of a format, or the folder does not exist.
    """
    if path.suffix.lower().removeprefix(".") not in formats:
        suffixes = f".{', .'.join(formats[:-1])} or .{formats[-1]}"
        raise InputError(f"cannot write {path}: the name must end in {suffixes}.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.absolute().parent} does not exist.")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure atomically.

    Raises:
        CatalogError: the file cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    # No dates, so that the same trace gives the same file.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with _drawing_settings():
        write_atomically(path, lambda partial: figure.savefig(partial, format=form, metadata=metadata))


def to_svg(figure: "Figure") -> bytes:
    """The figure as an SVG with letters as shapes, so that readers need no font."""
    buffer = io.BytesIO()
    with _drawing_settings(letters="path"):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@contextmanager
def _drawing_settings(letters: str = "none") -> Iterator[None]:
    """No random ids; letters of an SVG as text (`none`) or as shapes (`path`)."""
    import matplotlib

    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.hashsalt": "retcon", "svg.fonttype": letters}),
    ):
        # A token in a script that the font lacks becomes a box; a warning would not help.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def save_result(path: Path, result: "TraceResult", kind: str, model: str) -> None:
    """Draw one kind of a traced fact. An unfinished result shows the attribution in its missing cells.

    Raises:
        InputError, CatalogError: see `save_heatmap`.
    """
    table = result.scores[kind]
    merged = merge_attribution(table["scores"], None if result.is_complete else result.estimate.get(kind))
    data = HeatMapData(
        result.tokens, (result.subject_begin, result.subject_end), merged.rows, result.low or 0.0,
        result.high or 1.0, estimated=merged.estimated,
    )  # fmt: skip
    save_heatmap(path, data, kind=kind, window=table["window"], answer=result.answer, model=model)


def save_heatmap(path: Path, data: HeatMapData, *, kind: str, window: int, answer: str, model: str) -> None:
    """Draw the trace of one fact in the published style: tokens down, corrupted tokens starred, layers across.

    The scale runs from `data.low`, p(answer) of the corrupted run, to the highest score. The text below the map gives
    `data.high`, p(answer) of the clean run. Estimated cells are hatched and counted.

    Raises:
        InputError: the suffix is not .png, .pdf or .svg, or the folder does not exist.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    figure = new_figure((3.5 + 0.1 * data.layers, 1.4 + 0.16 * len(data.tokens)))
    axes = figure.add_subplot()
    names = [label.replace("$", r"\$") for label in data.labels()]
    values = [[float("nan") if value is None else value for value in row] for row in data.scores]
    mesh = axes.pcolor(_masked_grid(values), cmap=_COLORS[kind], vmin=data.low)
    axes.invert_yaxis()
    axes.set_yticks([0.5 + index for index in range(len(names))], names)
    ticks = range(0, data.layers, 5)
    axes.set_xticks([0.5 + layer for layer in ticks], list(map(str, ticks)))
    axes.set_title(f"Impact of restoring {_NAMES[kind]} with corrupted input")
    axes.set_xlabel("\n".join(_heatmap_notes(data, kind, window, model)), fontsize=9)
    if any(map(any, data.estimated or ())):
        _hatch(axes, data.estimated or ())
    bar = figure.colorbar(mesh, ax=axes)
    bar.ax.set_title(f"p({escape_label(answer.strip())})", y=-0.16, fontsize=9)
    save(figure, path)


def _heatmap_notes(data: HeatMapData, kind: str, window: int, model: str) -> list[str]:
    """The lines below a heat map."""
    restored = "single restored layer"
    if kind in _WINDOWED:
        restored = f"center of interval of {window} restored {_NAMES[kind]} layers"
    notes = [
        f"{restored} within {escape_label(model)}",
        f"clean run p = {data.high:.3f}, corrupted run p = {data.low:.3f}",
    ]
    exact, total = data.exact_and_total
    if exact < total:
        notes.append(f"hatched: estimated by attribution patching; {exact} of {total} cells are exact")
    return notes


def effects_title(model: str, effects: Sequence["AverageEffect"]) -> str:
    """Title of a figure of average effects: model and number of facts."""
    count = max((effect.count for effect in effects), default=0)
    return f"{model}: average indirect effects of {plural(count, 'fact')}"


def save_effects(path: Path, effects: Sequence["AverageEffect"], *, title: str) -> None:
    """Draw average indirect effects with their intervals: one panel per kind, one line per token role.

    Raises:
        InputError: the suffix is not .png, .pdf or .svg, or the folder does not exist.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    kinds = [kind for kind in _COLORS if any(effect.kind == kind for effect in effects)]
    columns = max(1, min(len(kinds), _PANELS_PER_ROW))
    panel_rows = max(1, -(-len(kinds) // columns))
    figure = new_figure((4.0 * columns, 3.2 * panel_rows))
    for index, kind in enumerate(kinds):
        axes = figure.add_subplot(panel_rows, columns, index + 1)
        for (role, name), (color, dashes) in zip(_ROLES.items(), _LINES, strict=True):
            rows = [effect for effect in effects if effect.kind == kind and effect.role == role]
            if rows:
                _plot_effects(
                    axes, sorted(rows, key=lambda effect: effect.layer), dashes, color=color, label=name
                )
        axes.set_title(f"Average indirect effect of {_NAMES[kind]}", fontsize=9)
        axes.set_xlabel("layer")
        axes.axhline(0, color="#999999", linewidth=0.6)
        if index % columns == 0:
            axes.set_ylabel("indirect effect on p(answer)")
        if index == 0:
            axes.legend(fontsize=6, frameon=False)
    figure.suptitle(escape_label(title), fontsize=10)
    save(figure, path)


def _plot_effects(
    axes: Any, effects: Sequence["AverageEffect"], dashes: str, *, color: str, label: str, width: float = 1.4
) -> list[Any]:
    """Draw the means of one line and the band of their intervals; returns the line."""
    layers = [effect.layer for effect in effects]
    lows, highs = [effect.low for effect in effects], [effect.high for effect in effects]
    lines: list[Any] = axes.plot(
        layers, [effect.mean for effect in effects], dashes, color=color, label=label, linewidth=width
    )
    axes.fill_between(layers, lows, highs, color=color, alpha=0.15, linewidth=0)
    return lines


def save_convergence(path: Path, curve: Sequence[dict[str, Any]], *, title: str) -> None:
    """Draw how far each doubling of the tokens changed C^-1 k: mean and largest over the probes, both axes logarithmic.

    Raises:
        InputError: the suffix is not .png, .pdf or .svg, or the folder does not exist.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    figure = new_figure((4.5, 3.2))
    axes = figure.add_subplot()
    tokens = [point["tokens"] for point in curve]
    for name, (color, dashes) in zip(("mean", "largest"), _LINES, strict=False):
        values = [point[name] for point in curve]
        axes.plot(tokens, values, dashes, color=color, marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(tokens, [f"{count:,}" for count in tokens], fontsize=7)
    axes.set_xlabel("tokens")
    axes.set_ylabel("1 - cos of $C^{-1}k$ with half the tokens")
    axes.set_title(escape_label(title), fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    save(figure, path)


def save_sweep(
    path: Path,
    scores: Mapping[int, Mapping[str, float]],
    effects: Sequence["AverageEffect"],
    *,
    best: int,
    score_name: str,
    title: str,
) -> None:
    """Draw scores against the edited layer, and the effects of a trace at the same layers on a second axis.

    `scores[layer]` has `value`, `low` and `high`. A vertical line marks the layer `best`.

    Raises:
        InputError: the suffix is not .png, .pdf or .svg, or the folder does not exist.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    figure = new_figure((5.6, 3.4))
    axes = figure.add_subplot()
    layers = sorted(scores)
    values, lows, highs = ([scores[layer][name] for layer in layers] for name in ("value", "low", "high"))
    (color, dashes), (effect_color, effect_dashes) = _LINES[2], _LINES[0]
    lines = axes.plot(
        layers, values, dashes, marker="o", markersize=3, color=color, label=f"{score_name} of edits at the layer"
    )  # fmt: skip
    axes.fill_between(layers, lows, highs, color=color, alpha=0.15, linewidth=0)
    axes.axvline(best, color=color, linewidth=0.6, linestyle=":")
    axes.set_xlabel("layer")
    axes.set_ylabel(score_name, color=color)
    axes.set_ylim(-0.02, 1.02)
    if effects:
        right = axes.twinx()
        name = "indirect effect of MLP at the last subject token"
        lines += _plot_effects(right, effects, effect_dashes, color=effect_color, label=name, width=1.2)
        right.set_ylabel("average indirect effect on p(answer)", color=effect_color)
    figure.legend(handles=lines, fontsize=6, frameon=False, loc="outside lower center", ncols=2)
    axes.set_title(escape_label(title), fontsize=9)
    save(figure, path)


def _hatch(axes: Any, estimated: Sequence[Sequence[bool]]) -> None:
    """Draw stripes over estimated cells, one rectangle per run of cells."""
    from matplotlib.patches import Rectangle

    for token, marks in enumerate(estimated):
        at = 0
        for mark, run in groupby(marks):
            length = len(list(run))
            if mark:
                stripes = Rectangle(
                    (at, token), length, 1, fill=False, hatch="////", edgecolor="#888888", linewidth=0
                )
                axes.add_patch(stripes)
            at += length


def _masked_grid(values: list[list[float]]) -> Any:
    import numpy as np

    return np.ma.masked_invalid(np.array(values, dtype=float))
