"""The widget of heat maps and curves, with a cursor over tokens and layers."""

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from .drawings import Drawing
from .lines import Lines


class HeatMap(Lines, can_focus=True):
    """A map, curves, or lines of text without either. Posts `Moved` when the cursor is on another cell."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("h,left", "move(0,-1)", "previous layer", show=False),
        Binding("l,right", "move(0,1)", "next layer", show=False),
        Binding("k,up", "move(-1,0)", "previous token", show=False),
        Binding("j,down", "move(1,0)", "next token", show=False),
        Binding("0,home", "move(0,-1000)", "first layer", show=False),
        Binding("$,dollar_sign,end", "move(0,1000)", "last layer", show=False),
        Binding("g", "move(-100000,0)", "first token", show=False),
        Binding("G", "move(100000,0)", "last token", show=False),
        Binding("asterisk", "peak", "highest cell", show=False),
    ]

    class Moved(Message):
        """The cursor is on another cell, or another drawing is visible."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing: Drawing | None = None
        self.cursor = (0, 0)
        self._below: list[Text] = []
        self._drawn_size = (0, 0)

    def show(self, picture: Drawing, below: Text, *, keep_cursor: bool = False) -> None:
        """Draw a map or curves, and some lines below. The cursor starts at the highest value, or keeps its place."""
        old = self.drawing
        self.drawing, self._below = picture, list(below.split("\n"))
        if keep_cursor and old is not None and picture.rows and picture.layers:
            self.cursor = (min(self.cursor[0], picture.rows - 1), min(self.cursor[1], picture.layers - 1))
        else:
            self.cursor = picture.peak()
        self._draw()
        self.post_message(self.Moved())

    def show_text(self, text: Text) -> None:
        """Show a text instead of a drawing."""
        self.drawing, self._below = None, list(text.split("\n"))
        self._draw()

    def action_move(self, tokens: int, layers: int) -> None:
        if self.drawing is None or not self.drawing.rows:
            return
        token = max(0, min(self.cursor[0] + tokens, self.drawing.rows - 1))
        layer = max(0, min(self.cursor[1] + layers, self.drawing.layers - 1))
        if (token, layer) != self.cursor:
            self.cursor = token, layer
            self._draw()
            self.post_message(self.Moved())

    def action_peak(self) -> None:
        if self.drawing is not None:
            self.cursor = self.drawing.peak()
            self._draw()
            self.post_message(self.Moved())

    def on_click(self, event: events.Click) -> None:
        if self.drawing is None:
            return
        cell = self.drawing.cell_at(event.x, event.y + round(self.scroll_y), self.room, self.cursor)
        if cell is not None:
            self.action_move(cell[0] - self.cursor[0], cell[1] - self.cursor[1])

    def on_resize(self) -> None:
        # Textual also sends this when the widget becomes visible again at the same size.
        if (self.room, self.size.height) != self._drawn_size:
            self._draw()

    def watch_has_focus(self, _has_focus: bool) -> None:
        self._draw()

    def _draw(self) -> None:
        """Draw the lines again; only differing lines are repainted."""
        self._drawn_size = self.room, self.size.height
        lines = list(self._below)
        if (picture := self.drawing) is not None:
            size = Size(self.room, self.size.height - len(lines))
            color = not self.app.no_color
            lines = [*picture.lines(size, self.cursor, focused=self.has_focus, color=color), *lines]
        for line in lines:
            line.end = ""
        self.put([Strip(line.render(self.app.console)) for line in lines])
        if picture is not None:
            self._keep_in_view(picture.line_of(self.cursor[0]))

    def _keep_in_view(self, line: int) -> None:
        top, height = round(self.scroll_y), max(1, self.size.height)
        if line < top or line == 1:
            self.scroll_to(y=0 if line == 1 else line, animate=False, immediate=True)
        elif line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False, immediate=True)
