"""Average effects by layer as curves in text, with their intervals as bands.

Curves use braille dots: four per line, two per column. Each curve carries the letter of its kind every few layers, so
curves are distinct without color. The interval is a band of sparse dots around the curve.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.text import Text

from .heatmap import Layout, axis
from .text import cut, sanitize

# The letter on the curve of each kind (also the key that shows this kind alone), and its terminal color.
MARKS = {"hidden": "H", "mlp": "M", "attn": "A", "severed-mlp": "m", "severed-attn": "a"}
_COLORS = {
    "hidden": "magenta",
    "mlp": "green",
    "attn": "red",
    "severed-mlp": "blue",
    "severed-attn": "yellow",
    "score": "cyan",
}
_GUTTER = len("+0.000 ")
# Bits of a braille character by row and column of its dots.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_DOTS_DOWN, _DOTS_ACROSS = 4, 2
_MAX_LAYER_COLUMNS = 4
_MARK_DISTANCE = 10


@dataclass(frozen=True)
class Curve:
    """One kind: per layer the mean effect (None if missing) and its interval.

    `label` is the text of the legend, by default the kind.
    """

    kind: str
    means: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    label: str = ""


@dataclass
class _Cell:
    """One character of a plot: braille dots of curves and bands, and the trace kinds that give their colors."""

    line: int = 0
    band: int = 0
    line_kind: str | None = None
    band_kinds: frozenset[str] = frozenset()


def lay_out(layers: int, width: int) -> Layout:
    """Up to four columns per layer. If one column per layer does not fit, several layers share a column."""
    room = max(1, width - _GUTTER)
    shared = max(1, -(-layers // room))
    return Layout(_GUTTER, layers, shared, max(1, min(_MAX_LAYER_COLUMNS, room // max(1, layers))))


def render_lines(
    curves: Sequence[Curve],
    *,
    title: str,
    width: int,
    height: int,
    color: bool = True,
    cursor: int | None = None,
) -> list[Text]:
    """`height` lines: title, plot, layer axis, legend. `cursor` is a layer."""
    layers = max((len(curve.means) for curve in curves), default=0)
    layout = lay_out(layers, width)
    rows = max(3, height - 3)
    values = [0.0, *(value for curve in curves for value in _values(curve))]
    low, high = min(values), max(values)
    plot = _Plot(layout, rows, low, high if high > low else low + 1.0)
    for curve in curves:
        plot.draw(curve)
    marks = plot.marks(curves, cursor)
    at = None if cursor is None else layout.span(cursor)[0] - layout.gutter
    lines = [Text(cut(sanitize(title), width), style="bold")]
    lines += [_line(plot, row, marks, color, at) for row in range(rows)]
    lines += [axis(layout), _legend(curves, color, width)]
    return lines


def _values(curve: Curve) -> Iterator[float]:
    for mean, interval in zip(curve.means, curve.intervals, strict=True):
        if mean is not None:
            yield mean
            yield from interval or ()


class _Plot:
    """The dots of the curves, from `low` at the bottom to `high` at the top."""

    def __init__(self, layout: Layout, rows: int, low: float, high: float) -> None:
        self.layout, self.rows, self.low, self.high = layout, rows, low, high
        self.cells: dict[tuple[int, int], _Cell] = {}

    def draw(self, curve: Curve) -> None:
        """Add a curve and its band."""
        before: int | None = None
        for dots in self._dots(curve):
            if dots is None:
                before = None
                continue
            x, mean, interval = dots
            y = self._down(mean)
            for dot in _joining_dots(y if before is None else before, y):
                self._dot(x, dot, curve.kind, band=False)
            before = y
            if interval is not None and x % 2 == 0:
                for dot in range(self._down(interval[1]), self._down(interval[0]) + 1):
                    if dot % 2 == 0:
                        self._dot(x, dot, curve.kind, band=True)

    def marks(self, curves: Sequence[Curve], cursor: int | None) -> dict[tuple[int, int], str]:
        """(row, column) -> kind of the letter there.

        The kinds take turns from layer to layer, so that letters do not collide. At the cursor every kind has one.
        """
        columns = self.layout.cell
        every = max(len(curves), -(-_MARK_DISTANCE // columns)) * self.layout.shared
        marks: dict[tuple[int, int], str] = {}
        for number, curve in enumerate(curves):
            shift = number * every // len(curves)
            for layer, mean in enumerate(curve.means):
                if mean is not None and (layer == cursor or (layer - shift) % every == 0):
                    marks.setdefault(self.cell_of(layer, mean), curve.kind)
        return marks

    def cell_of(self, layer: int, value: float) -> tuple[int, int]:
        """Row and column of the character of a value."""
        column = self.layout.span(layer)[0] - self.layout.gutter
        return self._down(value) // _DOTS_DOWN, column

    @property
    def zero(self) -> int:
        """The row of zero."""
        return self._down(0.0) // _DOTS_DOWN

    def _across(self, layer: int) -> int:
        return layer * self.layout.cell * _DOTS_ACROSS // self.layout.shared

    def _down(self, value: float) -> int:
        """Dot row of a value, counted from the top."""
        return round((self.high - value) / (self.high - self.low) * (self.rows * _DOTS_DOWN - 1))

    def _dots(self, curve: Curve) -> Iterator[tuple[int, float, tuple[float, float] | None] | None]:
        """(dot column, mean, interval) along straight lines from layer to layer; None where the curve breaks."""
        for layer, mean in enumerate(curve.means):
            if mean is None:
                yield None
                continue
            here, begin = curve.intervals[layer], self._across(layer)
            yield begin, mean, here
            after = curve.means[layer + 1] if layer + 1 < len(curve.means) else None
            if after is None:
                continue
            there, end = curve.intervals[layer + 1], self._across(layer + 1)
            for x in range(begin + 1, end):
                part = (x - begin) / (end - begin)
                interval = None
                if here is not None and there is not None:
                    interval = (_between(here[0], there[0], part), _between(here[1], there[1], part))
                yield x, _between(mean, after, part), interval

    def _dot(self, x: int, y: int, kind: str, *, band: bool) -> None:
        cell = self.cells.setdefault((y // _DOTS_DOWN, x // _DOTS_ACROSS), _Cell())
        bit = _DOTS[y % _DOTS_DOWN][x % _DOTS_ACROSS]
        if band:
            cell.band |= bit
            cell.band_kinds |= {kind}
        else:
            cell.line |= bit
            cell.line_kind = cell.line_kind or kind


def _mark(kind: str) -> str:
    """The letter of a kind; other curves use their first letter."""
    return MARKS.get(kind, kind[:1].upper())


def _between(one: float, other: float, part: float) -> float:
    return one + (other - one) * part


def _joining_dots(begin: int, end: int) -> range:
    """The dot rows that join two neighbors, without the first one's own row."""
    if begin == end:
        return range(end, end + 1)
    return range(begin + 1, end + 1) if end > begin else range(end, begin)


def _line(plot: _Plot, row: int, marks: dict[tuple[int, int], str], color: bool, cursor: int | None) -> Text:
    label = {0: plot.high, plot.rows - 1: plot.low} | (
        {plot.zero: 0.0} if 0 < plot.zero < plot.rows - 1 else {}
    )
    text = Text(f"{label[row]:+.3f} " if row in label else " " * _GUTTER, end="")
    cells: list[tuple[str, str]] = []
    for column in range(plot.layout.columns * plot.layout.cell):
        cell, kind = plot.cells.get((row, column), _Cell()), marks.get((row, column))
        here = column == cursor
        if kind is not None and here:
            cells.append((_mark(kind), "bold reverse"))
        elif kind is not None:
            cells.append((_mark(kind), f"bold {_COLORS.get(kind, '')}" if color else "bold"))
        elif cell.line:
            cells.append((chr(0x2800 + cell.line), _COLORS.get(cell.line_kind or "", "") if color else ""))
        elif here:
            cells.append(("┊", ""))
        elif cell.band:
            [only, *more] = cell.band_kinds
            tint = _COLORS.get(only, "") if color and not more else ""
            cells.append((chr(0x2800 + cell.band), f"dim {tint}".strip()))
        elif row == plot.zero:
            cells.append(("┈", "dim"))
        else:
            cells.append((" ", ""))
    for style, run in groupby(cells, key=lambda cell: cell[1]):
        text.append("".join(char for char, _ in run), style=style)
    return text


def _legend(curves: Sequence[Curve], color: bool, width: int) -> Text:
    text = Text()
    for curve in curves:
        text.append(_mark(curve.kind), style=f"bold {_COLORS.get(curve.kind, '')}" if color else "bold")
        text.append(f" {curve.label or curve.kind}  ")
    if any(
        interval is not None and interval[0] < interval[1] for one in curves for interval in one.intervals
    ):
        text.append("⠅⠅ 95 % interval", style="dim")
    text.truncate(width)
    return text
