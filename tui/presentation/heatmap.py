"""The heat map of a causal trace as text: tokens down, layers across, p(answer) as color and as density.

Every cell also holds a character of matching density, so the map stays readable under NO_COLOR, in print and for
color-blind readers. Cells that hold only an attribution (an estimate) use other characters than exact cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from .text import cut, sanitize, token_label

Scores = Sequence[Sequence[float | None]]
Row = tuple[float | None, ...]

# Like viridis, in colors of the 6x6x6 cube of 256-color terminals: tmux without COLORTERM shows exactly these.
# Luminance rises with every step, so the order survives color blindness and gray print.
PALETTE = (
    "#00005f", "#5f005f", "#5f0087", "#5f00af", "#005f87", "#005faf", "#008787", "#0087af",
    "#00af87", "#5faf87", "#5fd75f", "#87d75f", "#afd75f", "#d7d75f", "#d7ff5f", "#ffff5f",
)  # fmt: skip
EXACT_GLYPHS = "·░▒▓█"
ESTIMATED_GLYPHS = ".:+x#"
_STEPS = len(PALETTE)
# The glyph on its own background is this many steps lighter: visible, but not noisy.
_LIGHTER = 3
# Below this step the background is dark: white text is readable on it, black text on the others.
_DARK = 7
_TICKS = (1, 2, 5, 10, 20, 50, 100)
_CURSOR = "bold #ffffff on #000000"


@dataclass(frozen=True)
class MergedScores:
    """Scores with an attribution in each cell that has no exact score; `estimated` marks those cells."""

    rows: tuple[Row, ...]
    estimated: tuple[tuple[bool, ...], ...]


def merge_attribution(scores: Scores, attribution: Scores | None) -> MergedScores:
    """Fill the empty cells of `scores` with the attribution of the same kind.

    Raises:
        ValueError: the two tables differ in shape.
    """
    exact = tuple(tuple(None if value is None else float(value) for value in row) for row in scores)
    if not attribution:
        return MergedScores(exact, tuple((False,) * len(row) for row in exact))
    if [len(row) for row in attribution] != [len(row) for row in exact]:
        raise ValueError("the attribution and the scores differ in shape")
    rows, estimated = [], []
    for scored, attributed in zip(exact, attribution, strict=True):
        cells = [
            (value, False) if value is not None or other is None else (float(other), True)
            for value, other in zip(scored, attributed, strict=True)
        ]
        rows.append(tuple(value for value, _ in cells))
        estimated.append(tuple(mark for _, mark in cells))
    return MergedScores(tuple(rows), tuple(estimated))


@dataclass(frozen=True)
class HeatMapData:
    """Data of one map, and its title.

    `scores[token][layer]` is p(answer) with that state restored; None if not traced, which leaves the cell blank. The
    scale runs from `low` (usually p of the corrupted run) to `high`. `estimated[token][layer]` marks attributions.
    """

    tokens: Sequence[str]
    subject_range: tuple[int, int]
    scores: Scores
    low: float
    high: float
    title: str = ""
    unit: str = "p"
    estimated: Sequence[Sequence[bool]] | None = None

    @property
    def rows(self) -> int:
        return len(self.scores)

    @property
    def layers(self) -> int:
        return max((len(row) for row in self.scores), default=0)

    @property
    def exact_and_total(self) -> tuple[int, int]:
        """(number of exact cells, number of cells with a value)."""
        total = sum(value is not None for row in self.scores for value in row)
        return total - sum(map(sum, self.estimated or ())), total

    def labels(self) -> list[str]:
        """One label per token; corrupted tokens end in a star."""
        begin, end = self.subject_range
        return [
            token_label(token) + ("*" if begin <= index < end else "")
            for index, token in enumerate(self.tokens)
        ]


@dataclass(frozen=True)
class Layout:
    """Columns of the terminal: `gutter` for the labels, then cells of `cell` columns, each for `shared` layers."""

    gutter: int
    layers: int
    shared: int
    cell: int

    @property
    def columns(self) -> int:
        """Number of cells in a row."""
        return math.ceil(self.layers / self.shared)

    def span(self, layer: int) -> tuple[int, int]:
        """First terminal column of a layer's cell, and the column after its last one."""
        begin = self.gutter + layer // self.shared * self.cell
        return begin, begin + self.cell

    def layer_at(self, column: int) -> int | None:
        """First layer of the cell at a terminal column; None outside the cells."""
        index = (column - self.gutter) // self.cell
        return index * self.shared if 0 <= index < self.columns else None


def lay_out(names: Sequence[str], layers: int, width: int) -> Layout:
    """Fit a map into `width` columns: two columns per layer if they fit, else one, else several layers per column."""
    widest = max((cell_len(name) for name in names), default=0)
    gutter = min(max(widest, len("layer")), max(6, width // 4)) + 1
    room = max(1, width - gutter)
    shared = max(1, math.ceil(layers / room))
    return Layout(gutter, layers, shared, 2 if layers * 2 <= room else 1)


def step_of(value: float, low: float, high: float) -> int:
    """Palette step of a score. Scores outside the scale get its first or last step."""
    if value <= low or high <= low:
        return 0 if value <= low else _STEPS - 1
    return min(_STEPS - 1, int((value - low) / (high - low) * _STEPS))


def render_lines(
    data: HeatMapData, width: int, *, color: bool = True, cursor: tuple[int, int] | None = None
) -> list[Text]:
    """The map line by line: title, one line per token, layer axis, scale, notes. `cursor` is (token, layer).

    Without `color` the map uses density characters only.
    """
    names = data.labels()
    layout = lay_out(names, data.layers, width)
    lines = [Text(cut(sanitize(data.title), width), style="bold")]
    for index, name in enumerate(names[: data.rows]):
        column = cursor[1] // layout.shared if cursor is not None and cursor[0] == index else None
        lines.append(_render_row(data, index, name, layout, color, column))
    lines.append(axis(layout))
    lines.append(_legend(data, color, width))
    exact, total = data.exact_and_total
    if exact < total:
        note = f"~ estimate {ESTIMATED_GLYPHS} (attribution patching), {exact} of {total} cells exact"
        lines.append(Text(cut(note, width)))
    if layout.shared > 1:
        lines.append(
            Text(cut(f"each column shows the highest of {layout.shared} layers", width), style="dim")
        )
    return lines


def render(data: HeatMapData, width: int, *, color: bool = True) -> Text:
    """The whole map as one text of at most `width` columns."""
    return Text("\n").join(render_lines(data, width, color=color))


def _render_row(
    data: HeatMapData, index: int, name: str, layout: Layout, color: bool, cursor: int | None
) -> Text:
    row = data.scores[index]
    marks = data.estimated[index] if data.estimated is not None else ()
    label = set_cell_size(cut(name, layout.gutter - 1), layout.gutter)
    text = Text(label, style="", end="")
    if cursor is not None:
        text.stylize("bold reverse", 0, len(label.rstrip()))
    cells = []
    for column in range(layout.columns):
        begin, end = column * layout.shared, (column + 1) * layout.shared
        values = [value for value in row[begin:end] if value is not None and math.isfinite(value)]
        if column == cursor:
            cells.append(("[]" if layout.cell > 1 else "◆", _CURSOR if color else "bold reverse"))
        elif values:
            step, estimated = step_of(max(values), data.low, data.high), any(marks[begin:end])
            cells.append((_glyph(step, estimated) * layout.cell, _style(step, estimated) if color else ""))
        else:
            cells.append((" " * layout.cell, ""))
    # Equal neighbors become one piece: fewer bytes over SSH.
    for cell, run in groupby(cells):
        text.append(cell[0] * len(list(run)), style=cell[1])
    return text


def _glyph(step: int, estimated: bool = False) -> str:
    ramp = ESTIMATED_GLYPHS if estimated else EXACT_GLYPHS
    return ramp[step * len(ramp) // _STEPS]


def _style(step: int, estimated: bool = False) -> str:
    if estimated:  # the glyph contrasts with its background, whereas an exact cell is smooth
        return f"{'#ffffff' if step < _DARK else '#000000'} on {PALETTE[step]}"
    return f"{PALETTE[min(_STEPS - 1, step + _LIGHTER)]} on {PALETTE[step]}"


def axis(layout: Layout) -> Text:
    """Layer numbers under the columns, as many as fit with space between them."""
    widest = len(str(max(0, layout.layers - 1))) + 3
    every = next(
        (tick for tick in _TICKS if tick * layout.cell >= widest * layout.shared and tick >= layout.shared),
        _TICKS[-1],
    )
    line = [" "] * (layout.gutter + layout.columns * layout.cell + widest)
    line[: len("layer")] = "layer"
    for layer in range(0, layout.layers, every):
        begin, _ = layout.span(layer)
        line[begin : begin + len(str(layer))] = str(layer)
    end = layout.gutter + layout.columns * layout.cell
    return Text("".join(line)[:end].rstrip(), style="dim")


def _legend(data: HeatMapData, color: bool, width: int) -> Text:
    text = Text(f"{data.unit} {data.low:.3f} ")
    if color:
        for step in range(_STEPS):
            text.append(_glyph(step), style=_style(step))
    else:
        text.append("".join(char * 2 for char in EXACT_GLYPHS))
    text.append(f" {data.high:.3f}")
    if data.subject_range[0] < data.subject_range[1]:
        text.append("  * corrupted", style="dim")
    text.truncate(width)
    return text
