"""A list of rows under a header: one column takes what width is left, the least important go when it is narrow.

Drawn line by line, so that a moved cursor repaints two lines and nothing else: the way home may be a slow SSH line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import ClassVar

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..plain import plain


@dataclass(frozen=True)
class Column:
    """A column; `width` 0 takes what is left. The highest `drop` goes first when that gets less than `least`."""

    title: str
    width: int = 0
    drop: int = 0
    least: int = 12


@dataclass(frozen=True)
class Row:
    """A line of the list. Cells are plain text or styled `Text`; both are cut to their column."""

    key: str
    cells: tuple[str | Text, ...]
    hurt: bool = False


class Rows(ScrollView, can_focus=True, inherit_bindings=False):
    """The list. Posts `Selected` when another row has the cursor and `Opened` when one is entered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "next row", show=False),
        Binding("k,up", "move(-1)", "row before", show=False),
        Binding("g,home", "move(-1000000)", "first row", show=False),
        Binding("G,end", "move(1000000)", "last row", show=False),
        Binding("ctrl+d,pagedown", "page(1)", "page down", show=False),
        Binding("ctrl+u,pageup", "page(-1)", "page up", show=False),
        Binding("enter,l,right", "open", "open", show=False),
    ]

    @dataclass
    class Selected(Message):
        """The cursor stands on another row; None: there is none."""

        rows: "Rows"
        key: str | None

        @property
        def control(self) -> "Rows":
            return self.rows

    @dataclass
    class Opened(Message):
        """Enter on a row."""

        rows: "Rows"
        key: str

        @property
        def control(self) -> "Rows":
            return self.rows

    def __init__(self, columns: Sequence[Column], empty: str) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.empty = empty
        self.rows: tuple[Row, ...] = ()
        self.cursor = 0

    @property
    def key(self) -> str | None:
        """The key of the row under the cursor."""
        return self.rows[self.cursor].key if self.rows else None

    def show(self, rows: Sequence[Row]) -> None:
        """Other rows; the cursor stays on its row if that is still there. Only lines that differ are repainted."""
        old, key = self.rows, self.key
        rows = tuple(rows)
        if rows == old:
            return
        self.rows = rows
        keys = [row.key for row in rows]
        cursor = keys.index(key) if key in keys else max(0, min(self.cursor, len(rows) - 1))
        moved, self.cursor = cursor != self.cursor, cursor
        self.virtual_size = Size(self.size.width, len(rows) + 1)
        if len(rows) == len(old) and not moved:
            for index, (before, after) in enumerate(zip(old, rows, strict=True)):
                if before != after:
                    self.refresh_line(index + 1)
        else:
            self._keep_in_view()
            self.refresh()
        if self.key != key or not old:
            self.post_message(self.Selected(self, self.key))

    def select(self, key: str) -> None:
        """Put the cursor on a row, if there is one with that key."""
        for index, row in enumerate(self.rows):
            if row.key == key:
                self.action_move(index - self.cursor)

    def action_move(self, by: int) -> None:
        cursor = max(0, min(self.cursor + by, len(self.rows) - 1))
        if cursor == self.cursor or not self.rows:
            return
        before, self.cursor = self.cursor, cursor
        self.refresh_line(before + 1)
        self.refresh_line(cursor + 1)
        self._keep_in_view()
        self.post_message(self.Selected(self, self.key))

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_open(self) -> None:
        if self.key is not None:
            self.post_message(self.Opened(self, self.key))

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + round(self.scroll_y)
        if event.y >= 1 and index < len(self.rows):
            self.action_move(index - self.cursor)
            if event.chain == 2:
                self.action_open()

    def on_focus(self) -> None:
        self.refresh_line(self.cursor + 1)

    def on_blur(self) -> None:
        self.refresh_line(self.cursor + 1)

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        self._keep_in_view()

    def _keep_in_view(self) -> None:
        shown = max(1, self.size.height - 1)
        top = round(self.scroll_y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + shown:
            self.scroll_to(y=self.cursor - shown + 1, animate=False, immediate=True)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            line = self._line(tuple(column.title for column in self.columns), " ")
            return self._strip(line, Style(bold=True, dim=True))
        index = y - 1 + round(self.scroll_y)
        if index >= len(self.rows):
            lines = wrap(self.empty, max(1, width - 2)) if not self.rows else []
            return self._strip(Text(f" {lines[y - 1]}" if y <= len(lines) else "", end=""), Style(dim=True))
        here = index == self.cursor
        row = self.rows[index]
        line = self._line(row.cells, "▌" if here else "!" if row.hurt else " ")
        if here and self.has_focus:
            # Reversed colours would be a patchwork; the words and symbols say the same.
            return self._strip(Text(line.plain, end=""), Style(reverse=True))
        return self._strip(line, Style(bold=here))

    def text_of(self, index: int) -> str:
        """A row as it is drawn, wherever the list is scrolled to."""
        return self._line(self.rows[index].cells, " ").plain.strip()

    def _strip(self, line: Text, style: Style) -> Strip:
        strip = Strip(line.render(self.app.console)).apply_style(self.rich_style + style)
        return strip.adjust_cell_length(self.size.width, self.rich_style + style)

    def _line(self, cells: tuple[str | Text, ...], mark: str) -> Text:
        line = Text(mark, end="")
        for index, width in self._widths():
            cell = cells[index] if index < len(cells) else ""
            text = cell.copy() if isinstance(cell, Text) else Text(plain(cell), end="")
            if cell_len(text.plain) > width:
                text.truncate(width, overflow="ellipsis")
            text.append(" " * (width - cell_len(text.plain) + 1))
            line.append_text(text)
        line.plain  # noqa: B018 - joins the pieces once
        return line

    def _widths(self) -> list[tuple[int, int]]:
        """(index, width) of the columns that are shown."""
        shown = list(range(len(self.columns)))
        while True:
            fixed = sum(self.columns[index].width for index in shown) + len(shown) + 1
            flexible = [index for index in shown if not self.columns[index].width]
            left = self.size.width - fixed
            least = max(shown, key=lambda index: self.columns[index].drop)
            if left >= sum(self.columns[index].least for index in flexible) or self.columns[least].drop == 0:
                break
            shown.remove(least)
        share = max(1, left // max(1, len(flexible)))
        return [(index, self.columns[index].width or share) for index in shown]


def bar(part: float, width: int) -> str:
    """A progress bar of `width` columns, drawn with eighths."""
    eighths = round(max(0.0, min(1.0, part)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width, "─")
