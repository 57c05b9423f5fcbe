"""What the place of the heat map can hold: the map itself, or the curves of average effects; both have a cursor.

A cursor is a row (a token, or a role of tokens) and a layer, so that it stays where it is when one becomes the other.
"""

from dataclasses import dataclass
from typing import Protocol

from rich.text import Text
from textual.geometry import Size

from ...presentation import curves, heatmap

Cursor = tuple[int, int]


class Drawing(Protocol):
    """Lines that are made for a size, of rows by layers."""

    @property
    def rows(self) -> int: ...

    @property
    def layers(self) -> int: ...

    def peak(self) -> Cursor:
        """(row, layer) of the highest value."""

    def lines(self, size: Size, cursor: Cursor, *, focused: bool, color: bool) -> list[Text]:
        """The drawing; the cursor is only shown if it is `focused`."""

    def line_of(self, row: int) -> int:
        """The line that must be seen when the cursor is in a row."""

    def cell_at(self, column: int, line: int, width: int, cursor: Cursor) -> Cursor | None:
        """The row and layer that are drawn at a place."""


@dataclass(frozen=True)
class Picture:
    """A heat map."""

    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    scores: tuple[tuple[float | None, ...], ...]
    low: float
    high: float
    title: str
    unit: str = "p"
    estimated: tuple[tuple[bool, ...], ...] | None = None

    @property
    def rows(self) -> int:
        return len(self.scores)

    @property
    def layers(self) -> int:
        return max((len(row) for row in self.scores), default=0)

    def peak(self) -> Cursor:
        """The highest exact cell; that of the estimates only while there is nothing else."""
        found = [
            (not self._is_estimate(token, layer), value, -token, -layer)
            for token, row in enumerate(self.scores)
            for layer, value in enumerate(row)
            if value is not None
        ]
        _, _, token, layer = max(found, default=(False, 0.0, 0, 0))
        return -token, -layer

    def lines(self, size: Size, cursor: Cursor, *, focused: bool, color: bool) -> list[Text]:
        return heatmap.render_lines(
            self.tokens, self.subject_range, self.scores, low=self.low, high=self.high, title=self.title,
            width=size.width, color=color, cursor=cursor if focused else None, unit=self.unit,
            estimated=self.estimated,
        )  # fmt: skip

    def line_of(self, row: int) -> int:
        # With the last token what stands below it: the layers, the scale, what is an estimate.
        return row + 1 if row < self.rows - 1 else row + (4 if any(map(any, self.estimated or ())) else 3)

    def cell_at(self, column: int, line: int, width: int, cursor: Cursor) -> Cursor | None:
        layout = heatmap.lay_out(heatmap.labels(self.tokens, self.subject_range), self.layers, width)
        layer, token = layout.layer_at(column), line - 1
        return (token, layer) if layer is not None and 0 <= token < self.rows else None

    def _is_estimate(self, token: int, layer: int) -> bool:
        return self.estimated is not None and self.estimated[token][layer]


@dataclass(frozen=True)
class CurvesPicture:
    """The curves of one role at a time: that of the cursor's row. `titles` and `curves` have one entry a role."""

    titles: tuple[str, ...]
    curves: tuple[tuple[curves.Curve, ...], ...]
    first: int

    @property
    def rows(self) -> int:
        return len(self.curves)

    @property
    def layers(self) -> int:
        return max((len(curve.means) for role in self.curves for curve in role), default=0)

    def peak(self) -> Cursor:
        """The highest point of the curves of the first role to be shown."""
        found = [
            (mean, -layer)
            for curve in self.curves[self.first]
            for layer, mean in enumerate(curve.means)
            if mean is not None
        ]
        return self.first, -max(found, default=(0.0, 0))[1]

    def lines(self, size: Size, cursor: Cursor, *, focused: bool, color: bool) -> list[Text]:
        role, layer = cursor
        return curves.render_lines(
            self.curves[role], title=self.titles[role], width=size.width, height=max(6, size.height), color=color,
            cursor=layer if focused else None,
        )  # fmt: skip

    def line_of(self, row: int) -> int:
        return 1

    def cell_at(self, column: int, line: int, width: int, cursor: Cursor) -> Cursor | None:
        layer = curves.lay_out(self.layers, width).layer_at(column)
        return (cursor[0], layer) if layer is not None else None
