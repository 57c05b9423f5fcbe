"""Pictures for papers and pages: what the heat map shows on the screen, as PNG, PDF or SVG.

matplotlib is imported inside the functions: it takes longer than all the rest of a command's start.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .drawing import blank, check_path, label, save
from .estimates import merge

if TYPE_CHECKING:
    from ...store.catalog.tables import AverageEffect, TraceResult

# The colors and words of the published figures (Meng et al. 2022, figure 1 and appendix B).
_COLORS = {
    "hidden": "Purples", "mlp": "Greens", "attn": "Reds", "severed-mlp": "Blues", "severed-attn": "Oranges",
}  # fmt: skip
_NAMES = {
    "hidden": "state", "mlp": "MLP", "attn": "Attn", "severed-mlp": "state with MLP severed",
    "severed-attn": "state with Attn severed",
}  # fmt: skip
_WINDOWED = ("mlp", "attn")
_PANELS_IN_A_ROW = 3
_ROLES = {
    "first subject": "first subject token",
    "middle subject": "middle subject tokens",
    "last subject": "last subject token",
    "first after": "first subsequent token",
    "further": "further tokens",
    "last": "last token",
}
# Told apart by the color-blind (Wong 2011), and by their dashes in print.
_LINES = (
    ("#0072B2", "-"), ("#56B4E9", "--"), ("#D55E00", "-"), ("#009E73", "-."), ("#CC79A7", ":"), ("#000000", "--"),
)  # fmt: skip


def save_result(path: Path, result: "TraceResult", kind: str, model: str) -> None:
    """Draw one kind of a traced fact; where it is not traced to its end, the rest as the estimate.

    Raises:
        InputError, CatalogError: see `save_heatmap`.
    """
    table = result.scores[kind]
    merged = merge(table["scores"], None if result.is_complete else result.estimate.get(kind))
    save_heatmap(
        path,
        result.tokens,
        (result.subject_begin, result.subject_end),
        merged.rows,
        estimated=merged.estimated,
        kind=kind,
        window=table["window"],
        low=result.low or 0.0,
        high=result.high or 1.0,
        answer=result.answer,
        model=model,
    )


def save_heatmap(
    path: Path,
    tokens: Sequence[str],
    subject_range: tuple[int, int],
    scores: Sequence[Sequence[float | None]],
    *,
    kind: str,
    window: int,
    low: float,
    high: float,
    answer: str,
    model: str,
    estimated: Sequence[Sequence[bool]] | None = None,
) -> None:
    """Draw the trace of one fact in the published style: tokens down, the corrupted ones starred, layers across.

    The scale begins at `low`, p(answer) of the corrupted run, and ends at the highest score; `high`, the clean run's,
    is told under the picture. `estimated` cells are hatched, and said to be estimates.

    Raises:
        InputError: the suffix is none of .png, .pdf, .svg, or the folder is not there.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    figure = blank((3.5 + 0.1 * max(map(len, scores), default=0), 1.4 + 0.16 * len(tokens)))
    axes = figure.add_subplot()
    begin, end = subject_range
    names = [label(token) + ("*" if begin <= index < end else "") for index, token in enumerate(tokens)]
    values = [[float("nan") if value is None else value for value in row] for row in scores]
    picture = axes.pcolor(_grid(values), cmap=_COLORS[kind], vmin=low)
    axes.invert_yaxis()
    axes.set_yticks([0.5 + index for index in range(len(names))], names)
    layers = len(values[0]) if values else 0
    axes.set_xticks([0.5 + layer for layer in range(0, layers, 5)], list(map(str, range(0, layers, 5))))
    axes.set_title(f"Impact of restoring {_NAMES[kind]} after corrupted input")
    if kind not in _WINDOWED:
        restored = f"single restored layer within {label(model)}"
    else:
        restored = f"center of interval of {window} restored {_NAMES[kind]} layers within {label(model)}"
    runs = f"clean run p = {high:.3f}, corrupted run p = {low:.3f}"
    told = [restored, runs]
    if guesses := sum(map(sum, estimated or ())):
        _hatch(axes, estimated or ())
        total = sum(value is not None for row in scores for value in row)
        told.append(
            f"hatched: estimated by attribution patching; {total - guesses} of {total} cells are exact"
        )
    axes.set_xlabel("\n".join(told), fontsize=9)
    bar = figure.colorbar(picture, ax=axes)
    bar.ax.set_title(f"p({label(answer.strip())})", y=-0.16, fontsize=9)
    save(figure, path)


def effects_title(model: str, effects: Sequence["AverageEffect"]) -> str:
    """What stands over them: of which model, and over how many facts at most the means go."""
    count = max((effect.count for effect in effects), default=0)
    return f"{model}: average indirect effects of {count:,} fact{'s' * (count != 1)}"


def save_effects(path: Path, effects: Sequence["AverageEffect"], *, title: str) -> None:
    """Draw average indirect effects with their intervals: a panel for each kind, a line for each role of a token.

    Raises:
        InputError: the suffix is none of .png, .pdf, .svg, or the folder is not there.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    kinds = [kind for kind in _COLORS if any(effect.kind == kind for effect in effects)]
    columns = max(1, min(len(kinds), _PANELS_IN_A_ROW))
    rows_of_panels = max(1, -(-len(kinds) // columns))
    figure = blank((4.0 * columns, 3.2 * rows_of_panels))
    for index, kind in enumerate(kinds):
        axes = figure.add_subplot(rows_of_panels, columns, index + 1)
        for (role, name), (color, dashes) in zip(_ROLES.items(), _LINES, strict=True):
            rows = sorted(
                (effect for effect in effects if effect.kind == kind and effect.role == role),
                key=lambda effect: effect.layer,
            )
            if not rows:
                continue
            layers = [row.layer for row in rows]
            axes.plot(layers, [row.mean for row in rows], dashes, color=color, label=name, linewidth=1.4)
            axes.fill_between(
                layers,
                [row.low for row in rows],
                [row.high for row in rows],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
        axes.set_title(f"Average indirect effect of {_NAMES[kind]}", fontsize=9)
        axes.set_xlabel("layer")
        axes.axhline(0, color="#999999", linewidth=0.6)
        if index % columns == 0:
            axes.set_ylabel("indirect effect on p(answer)")
        if index == 0:
            axes.legend(fontsize=6, frameon=False)
    figure.suptitle(label(title), fontsize=10)
    save(figure, path)


def save_settling(path: Path, curve: Sequence[dict[str, Any]], *, title: str) -> None:
    """Draw how far C^-1 k turned with each doubling of the tokens: mean and largest of the probes, both axes by powers.

    Raises:
        InputError: the suffix is none of .png, .pdf, .svg, or the folder is not there.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    figure = blank((4.5, 3.2))
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
    axes.set_title(label(title), fontsize=9)
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
    """Draw scores against the edited layer, and a trace's effects at the same layers on an axis of their own.

    `scores[layer]` has `value`, `low` and `high`; `best` is the layer that a line marks.

    Raises:
        InputError: the suffix is none of .png, .pdf, .svg, or the folder is not there.
        CatalogError: the file cannot be written.
    """
    check_path(path)
    figure = blank((5.6, 3.4))
    axes = figure.add_subplot()
    layers = sorted(scores)
    values, lows, highs = ([scores[layer][name] for layer in layers] for name in ("value", "low", "high"))
    (color, dashes), (beside, beside_dashes) = _LINES[2], _LINES[0]
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
        at = [effect.layer for effect in effects]
        lines += right.plot(
            at, [effect.mean for effect in effects], beside_dashes, color=beside, linewidth=1.2,
            label="indirect effect of MLP at the last subject token",
        )  # fmt: skip
        right.fill_between(
            at,
            [effect.low for effect in effects],
            [effect.high for effect in effects],
            color=beside,
            alpha=0.15,
            linewidth=0,
        )
        right.set_ylabel("average indirect effect on p(answer)", color=beside)
    figure.legend(handles=lines, fontsize=6, frameon=False, loc="outside lower center", ncols=2)
    axes.set_title(label(title), fontsize=9)
    save(figure, path)


def _hatch(axes: Any, estimated: Sequence[Sequence[bool]]) -> None:
    """Stripes over the cells that are estimates, run by run."""
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


def _grid(values: list[list[float]]) -> Any:
    import numpy as np

    return np.ma.masked_invalid(np.array(values, dtype=float))
