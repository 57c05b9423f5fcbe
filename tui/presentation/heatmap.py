"""The causal-trace heat map as text: tokens down, layers across, p(answer) as color and as density.

Drawn the way the field draws it, so that it is read at once. A shade is never told by color alone: every cell also
holds a character of that density, which is what is left under NO_COLOR, on paper, and for the color-blind. A cell
that is only estimated is drawn in letters and signs instead of shades: nobody shall take it for a measured one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from .text import cut, sanitize, token_label

Scores = Sequence[Sequence[float | None]]

# Like viridis, from the 6x6x6 cube of 256-color terminals: tmux without COLORTERM shows exactly these.
# Luminance rises with every step, so the order survives color blindness and a grey print.
PALETTE = (
    "#00005f", "#5f005f", "#5f0087", "#5f00af", "#005f87", "#005faf", "#008787", "#0087af",
    "#00af87", "#5faf87", "#5fd75f", "#87d75f", "#afd75f", "#d7d75f", "#d7ff5f", "#ffff5f",
)  # fmt: skip
DENSITY = "·░▒▓█"
ESTIMATE = ".:+x#"
_STEPS = len(PALETTE)
# The glyph on top of its own color is some steps lighter: seen, but no noise.
_LIGHTER = 3
# Steps below it are dark: white is read on them, and black on the others.
_DARK = 7
_TICKS = (1, 2, 5, 10, 20, 50, 100)
_CURSOR = "bold #ffffff on #000000"


@dataclass(frozen=True)
class Layout:
    """Where things stand: the labels' columns, then cells of `cell` columns, each for `shared` layers."""

    gutter: int
    layers: int
    shared: int
    cell: int

    @property
    def columns(self) -> int:
        """How many cells a row has."""
        return math.ceil(self.layers / self.shared)

    def span(self, layer: int) -> tuple[int, int]:
        """The terminal columns, from and up to, of the cell of a layer."""
        begin = self.gutter + layer // self.shared * self.cell
        return begin, begin + self.cell

    def layer_at(self, column: int) -> int | None:
        """The first layer of the cell at a terminal column, if there is one."""
        index = (column - self.gutter) // self.cell
        return index * self.shared if 0 <= index < self.columns else None


def labels(tokens: Sequence[str], subject_range: tuple[int, int]) -> list[str]:
    """The tokens as they stand left of the map; the corrupted ones with a star."""
    begin, end = subject_range
    return [token_label(token) + ("*" if begin <= index < end else "") for index, token in enumerate(tokens)]


def lay_out(names: Sequence[str], layers: int, width: int) -> Layout:
    """Fit a map into `width` columns: two a layer if they fit, else one, else several layers a column."""
    widest = max((cell_len(name) for name in names), default=0)
    gutter = min(max(widest, len("layer")), max(6, width // 4)) + 1
    room = max(1, width - gutter)
    shared = max(1, math.ceil(layers / room))
    return Layout(gutter, layers, shared, 2 if layers * 2 <= room else 1)


def step_of(value: float, low: float, high: float) -> int:
    """Which of the palette's steps a score has; what is outside the scale gets the end of it."""
    if value <= low or high <= low:
        return 0 if value <= low else _STEPS - 1
    return min(_STEPS - 1, int((value - low) / (high - low) * _STEPS))


def render_lines(
    tokens: Sequence[str],
    subject_range: tuple[int, int],
    scores: Scores,
    *,
    low: float,
    high: float,
    title: str,
    width: int,
    color: bool = True,
    cursor: tuple[int, int] | None = None,
    unit: str = "p",
    estimated: Sequence[Sequence[bool]] | None = None,
) -> list[Text]:
    """The map line by line: title, one line a token, the layers' axis, the scale. `cursor` is (token, layer)."""
    names = labels(tokens, subject_range)
    layers = max((len(row) for row in scores), default=0)
    layout = lay_out(names, layers, width)
    lines = [Text(cut(sanitize(title), width), style="bold")]
    for index, (name, row) in enumerate(zip(names, scores, strict=False)):
        here = cursor[1] // layout.shared if cursor is not None and cursor[0] == index else None
        marks = estimated[index] if estimated is not None else ()
        lines.append(_row(name, row, marks, layout, low, high, color, here))
    lines.append(axis(layout))
    lines.append(_legend(unit, low, high, color, width, starred=subject_range[0] < subject_range[1]))
    guesses = sum(map(sum, estimated or ()))
    if guesses:
        total = sum(value is not None for row in scores for value in row)
        told = f"~ estimate {ESTIMATE} (attribution patching), {total - guesses} of {total} cells exact"
        lines.append(Text(cut(told, width)))
    if layout.shared > 1:
        lines.append(Text(cut(f"each column is the highest of {layout.shared} layers", width), style="dim"))
    return lines


def render(
    tokens: Sequence[str],
    subject_range: tuple[int, int],
    scores: Scores,
    *,
    low: float,
    high: float,
    title: str,
    width: int,
    color: bool = True,
    estimated: Sequence[Sequence[bool]] | None = None,
) -> Text:
    """The whole map as one text of at most `width` columns.

    `scores[token][layer]` is p(answer) with that state restored, None where it was not traced (left blank). The scale
    runs from `low` (usually p of the corrupted run) to `high`. With `color=False` only densities are used.
    `estimated[token][layer]` says which scores are estimates (see tui.estimates); they are drawn as such, and counted.
    """
    lines = render_lines(
        tokens, subject_range, scores, low=low, high=high, title=title, width=width, color=color,
        estimated=estimated,
    )  # fmt: skip
    return Text("\n").join(lines)


def _row(
    name: str,
    row: Sequence[float | None],
    marks: Sequence[bool],
    layout: Layout,
    low: float,
    high: float,
    color: bool,
    cursor: int | None,
) -> Text:
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
            step, guess = step_of(max(values), low, high), any(marks[begin:end])
            cells.append((_glyph(step, guess) * layout.cell, _style(step, guess) if color else ""))
        else:
            cells.append((" " * layout.cell, ""))
    # Neighbors of one shade in one piece: less to send over SSH.
    for cell, run in groupby(cells):
        text.append(cell[0] * len(list(run)), style=cell[1])
    return text


def _glyph(step: int, estimated: bool = False) -> str:
    ramp = ESTIMATE if estimated else DENSITY
    return ramp[step * len(ramp) // _STEPS]


def _style(step: int, estimated: bool = False) -> str:
    if estimated:  # a sign that stands out of its color, where an exact cell is smooth
        return f"{'#ffffff' if step < _DARK else '#000000'} on {PALETTE[step]}"
    return f"{PALETTE[min(_STEPS - 1, step + _LIGHTER)]} on {PALETTE[step]}"


def axis(layout: Layout) -> Text:
    """Numbers under the columns, as many as stand apart."""
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


def _legend(unit: str, low: float, high: float, color: bool, width: int, *, starred: bool) -> Text:
    text = Text(f"{unit} {low:.3f} ")
    if color:
        for step in range(_STEPS):
            text.append(_glyph(step), style=_style(step))
    else:
        text.append("".join(char * 2 for char in DENSITY))
    text.append(f" {high:.3f}")
    if starred:
        text.append("  * corrupted", style="dim")
    text.truncate(width)
    return text
