"""Drawings with a cursor: the heat map of a fact or of averages, and the curves of average effects.

A cursor is a row (a token, or a token role) and a layer, so it keeps its place when the drawing changes.
"""

from dataclasses import dataclass
from typing import Protocol

from rich.text import Text
from textual.geometry import Size

from ...presentation import curves, heatmap

Cursor = tuple[int, int]


class Drawing(Protocol):
    """Rows by layers, rendered as lines of text for a size."""

    @property
    def rows(self) -> int: ...

    @property
    def layers(self) -> int: ...

    def peak(self) -> Cursor:
        """(row, layer) of the highest value."""

    def lines(self, size: Size, cursor: Cursor, *, focused: bool, color: bool) -> list[Text]:
        """The lines of the drawing; with the cursor if `focused`."""

    def line_of(self, row: int) -> int:
        """The line that must be visible while the cursor is in a row."""

    def cell_at(self, column: int, line: int, width: int, cursor: Cursor) -> Cursor | None:
        """The row and layer at a terminal position; None outside the drawing."""


@dataclass(frozen=True)
class HeatMapDrawing(heatmap.HeatMapData):
    """A heat map."""

    def peak(self) -> Cursor:
        """The highest exact cell; the highest estimated cell while no exact one exists."""
        cells = [
            (not self._is_estimated(token, layer), value, -token, -layer)
            for token, row in enumerate(self.scores)
            for layer, value in enumerate(row)
            if value is not None
        ]
        _, _, token, layer = max(cells, default=(False, 0.0, 0, 0))
        return -token, -layer

    def lines(self, size: Size, cursor: Cursor, *, focused: bool, color: bool) -> list[Text]:
        return heatmap.render_lines(self, size.width, color=color, cursor=cursor if focused else None)

    def line_of(self, row: int) -> int:
        # The last token brings the lines below it into view: layer axis, scale, note on estimates.
        return row + 1 if row < self.rows - 1 else row + (4 if any(map(any, self.estimated or ())) else 3)

    def cell_at(self, column: int, line: int, width: int, cursor: Cursor) -> Cursor | None:
        layout = heatmap.lay_out(self.labels(), self.layers, width)
        layer, token = layout.layer_at(column), line - 1
        return (token, layer) if layer is not None and 0 <= token < self.rows else None

    def _is_estimated(self, token: int, layer: int) -> bool:
        return self.estimated is not None and self.estimated[token][layer]


@dataclass(frozen=True)
class CurvesDrawing:
    """The curves of one token role at a time: the role of the cursor's row. One title and set of curves per role."""

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
        """The highest point of the curves of the role that is shown first."""
        points = [
            (mean, -layer)
            for curve in self.curves[self.first]
            for layer, mean in enumerate(curve.means)
            if mean is not None
        ]
        return self.first, -max(points, default=(0.0, 0))[1]

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
