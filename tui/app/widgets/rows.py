"""The list of each pane, drawn line by line: a cursor move repaints two lines, which matters over slow SSH.

A thread reads long lists, so the display does not block.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from textwrap import wrap
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ....store.errors import CatalogError, InputError
from ..data.rows import Key, Query
from .lines import differing_columns
from .row_lines import Column, Row, column_widths, format_line
from .row_source import RowReader, RowSource

# Number of keys that are read at once; a longer list is read completely in a thread.
FIRST = 2000
_PAINTED_SECONDS = 0.1
# Minimum delay before a long list that changed during a read is read again.
_REREAD_SECONDS = 1.0


class _Read(Enum):
    """State of the read in the thread. OUTDATED: the list changed during the read, so another read follows."""

    IDLE = 0
    RUNNING = 1
    OUTDATED = 2


class Rows(ScrollView, can_focus=True, inherit_bindings=False):
    """The list. Posts `Selected` when the cursor is on another row."""

    heading = "The list"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "next row", show=False),
        Binding("k,up", "move(-1)", "previous row", show=False),
        Binding("g,home", "move(-1000000000)", "first row", show=False),
        Binding("G,end", "move(1000000000)", "last row", show=False),
        Binding("ctrl+d,pagedown", "page(1)", "page down", show=False),
        Binding("ctrl+u,pageup", "page(-1)", "page up", show=False),
        Binding("enter,l,right", "open", "open", show=False),
        Binding("space", "mark", "mark this row", show=False),
        Binding("v", "mark_to", "mark from the last marked row to here", show=False),
        Binding("asterisk", "mark_all", "mark all rows, or none", show=False),
        Binding("o", "sort", "sort by the next column", show=False),
        Binding("O", "reverse", "reverse the order", show=False),
    ]

    @dataclass
    class Selected(Message):
        """The cursor is on another row, or the list is empty. `by_hand`: a key or the mouse moved it."""

        by_hand: bool = False

    @dataclass
    class Changed(Message):
        """The number, the selection or the marks of the rows changed."""

        rows: "Rows"

    @dataclass
    class Failed(Message):
        """A read failed, with the reason."""

        reason: str

    def __init__(
        self, columns: Sequence[Column], empty: str, reader: RowReader, sortable: Collection[str]
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.empty = empty
        self.source = RowSource(reader, lambda reason: self.post_message(self.Failed(reason)))
        self.cursor = 0
        self._sortable = sortable
        self._read = _Read.IDLE
        # A key to select as soon as it has been read.
        self._pending: Key | None = None

    @property
    def keys(self) -> Sequence[Key]:
        return self.source.keys

    @property
    def key(self) -> Key | None:
        """The key of the row under the cursor."""
        return self.keys[self.cursor] if len(self.keys) else None

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return self.source.row(self.cursor) if len(self.keys) else None

    @property
    def selected_rows(self) -> list[Row]:
        """The marked rows in the order of the list; without marks the row under the cursor."""
        if self.source.marked:
            return self.source.marked_rows()
        return [self.row] if self.row is not None else []

    @property
    def navigation_keys(self) -> Collection[str]:
        """The keys that move the cursor, mark and sort."""
        return self._bindings.key_to_bindings.keys() - {"enter", "l", "right"}

    # -- reading

    def reload(self) -> None:
        """Read the list again; repaint what changed. The cursor stays on its row if that row still exists."""
        if len(self.keys) >= FIRST:
            self._read_all()
            self._refresh_view()
            return
        try:
            keys = self.source.reader.read_keys(self.source.query, FIRST)
        except (CatalogError, InputError) as error:
            self.post_message(self.Failed(str(error)))
            return
        self._set_keys(keys)
        if len(keys) == FIRST:
            # After these have been painted.
            self.set_timer(_PAINTED_SECONDS, self._read_all)

    def set_query(self, query: Query) -> None:
        """Change the filter or the order, and read the rows again."""
        if query == self.source.query:
            return
        self.source.query = query
        if self.source.total >= FIRST:
            # A rare word needs a search through all rows, which must not block the screen.
            self._read_all()
        else:
            self.reload()
        self.refresh_line(round(self.scroll_y))
        self.post_message(self.Changed(self))

    def select(self, key: Key) -> None:
        """Move the cursor to a row as soon as it is read. Does nothing if the key does not exist."""
        index = self.source.index_of(key)
        if index is None:
            self._pending = key
        else:
            self._move_to(index)

    def _read_all(self) -> None:
        if self._read is not _Read.IDLE:
            self._read = _Read.OUTDATED
            return
        self._read = _Read.RUNNING
        query = self.source.query

        def read() -> None:
            keys: Sequence[Key] | None = None
            try:
                keys = self.source.reader.read_keys(query, None)
            except (CatalogError, InputError) as error:
                self.post_message(self.Failed(str(error)))
            self.app.call_from_thread(self._finish_read, query, keys)

        self.run_worker(read, thread=True, group="keys", exit_on_error=False)

    def _finish_read(self, query: Query, keys: Sequence[Key] | None) -> None:
        is_outdated, self._read = self._read is _Read.OUTDATED, _Read.IDLE
        if keys is not None and query == self.source.query:
            self._set_keys(keys)
        if query != self.source.query:
            self._read_all()
        elif is_outdated:
            self.set_timer(_REREAD_SECONDS, self._read_all)

    def _set_keys(self, keys: Sequence[Key]) -> None:
        """Show other keys; the visible rows are read again."""
        old_keys, old_key = self.keys, self.key
        self.source.set_keys(keys)
        has_moved = self._restore_cursor(old_key)
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        view = self._view()
        is_same_view = list(old_keys[view.start : view.stop]) == list(keys[view.start : view.stop])
        if len(old_keys) == len(keys) and not has_moved and is_same_view:
            self._refresh_view()
        else:
            self.source.clear_cache()
            self._scroll_to_cursor()
            self.refresh()
        if self.key != old_key or not len(old_keys):
            self.post_message(self.Selected())
        if len(old_keys) != len(keys):
            self.post_message(self.Changed(self))

    def _restore_cursor(self, old_key: Key | None) -> bool:
        """Put the cursor on the pending key, else on its old key, else near its old position. Whether it moved."""
        keys, index = self.keys, self.source.index_of(self._pending)
        if index is not None:
            self._pending = None
        elif old_key is not None and self.cursor < len(keys) and keys[self.cursor] == old_key:
            index = self.cursor
        else:
            index = self.source.index_of(old_key)
        cursor = index if index is not None else max(0, min(self.cursor, len(keys) - 1))
        has_moved, self.cursor = cursor != self.cursor, cursor
        return has_moved

    def _view(self) -> range:
        top = round(self.scroll_y)
        return range(top, min(len(self.keys), top + max(1, self.size.height - 1)))

    def _refresh_view(self) -> None:
        """Read the visible rows again, and repaint only the screen columns that changed."""
        view = self._view()
        for index, (old, new) in self.source.reread(view).items():
            if old is not None and new is not None:
                begin, end = differing_columns(self._draw_row(index, old), self._draw_row(index, new))
                self.refresh(Region(begin, index + 1 - view.start, end - begin, 1))
            else:
                self._refresh_row(index)

    # -- keys and mouse

    def action_move(self, by: int) -> None:
        if len(self.keys):
            self._move_to(max(0, min(self.cursor + by, len(self.keys) - 1)))

    def _move_to(self, cursor: int) -> None:
        if cursor == self.cursor:
            return
        old, self.cursor = self.cursor, cursor
        self._refresh_row(old)
        self._refresh_row(cursor)
        self._scroll_to_cursor()
        self.post_message(self.Selected(by_hand=True))

    def _refresh_row(self, index: int) -> None:
        self.refresh_line(index + 1)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_open(self) -> None:
        if self.key is not None:
            self.source.reader.open_row()

    def action_mark(self) -> None:
        if self.key is not None:
            self.source.toggle_mark(self.key)
            self._refresh_row(self.cursor)
            self.action_move(1)
            self.post_message(self.Changed(self))

    def action_mark_to(self) -> None:
        self.source.mark_to(self.cursor)
        self._refresh_marks()

    def action_mark_all(self) -> None:
        self.source.toggle_all_marks()
        self._refresh_marks()

    def unmark(self) -> bool:
        """Remove all marks; False if there were none."""
        if not self.source.marked:
            return False
        self.action_mark_all()
        return True

    def _refresh_marks(self) -> None:
        self.refresh()
        self.post_message(self.Changed(self))

    def action_sort(self) -> None:
        visible = [self.columns[index].name for index, _ in column_widths(self.columns, self.size.width)]
        names = [name for name in visible if name in self._sortable]
        self.set_query(self.source.query_with_next_sort(names))

    def action_reverse(self) -> None:
        query = self.source.query
        if query.sort:
            self.set_query(replace(query, descending=not query.descending))

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + round(self.scroll_y)
        if event.y == 0:
            self._sort_at(event.x)
        elif index < len(self.keys):
            self._move_to(index)
            if event.chain == 2:
                self.action_open()

    def _sort_at(self, x: int) -> None:
        begin = 1
        for index, width in column_widths(self.columns, self.size.width):
            name = self.columns[index].name
            if begin <= x <= begin + width and name in self._sortable:
                self.set_query(self.source.query_sorted_by(name))
            begin += width + 1

    def on_focus(self) -> None:
        self._refresh_row(self.cursor)

    def on_blur(self) -> None:
        self._refresh_row(self.cursor)

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.keys) + 1)
        self._scroll_to_cursor()

    def _scroll_to_cursor(self) -> None:
        height = max(1, self.size.height - 1)
        top = round(self.scroll_y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, immediate=True)

    # -- drawing

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._to_strip(
                format_line(self.columns, self._titles(), " ", width), Style(bold=True, dim=True)
            )
        index = y - 1 + round(self.scroll_y)
        if index >= len(self.keys):
            lines = wrap(self._empty_text(), max(1, width - 2)) if not len(self.keys) else []
            return self._to_strip(
                Text(f" {lines[y - 1]}" if y <= len(lines) else "", end=""), Style(dim=True)
            )
        return self._draw_row(index, self.source.row(index))

    def _draw_row(self, index: int, row: Row) -> Strip:
        is_current, is_marked = index == self.cursor, row.key in self.source.marked
        mark = (
            ("▌", "◉")[is_marked] if is_current else "•" if is_marked else "!" if row.is_unreadable else " "
        )
        text = format_line(self.columns, row.cells, mark, self.size.width)
        if is_current and self.has_focus:
            # Without the colors of the cells: reversed, they would be a patchwork. Words and symbols carry the same.
            return self._to_strip(Text(text.plain, end=""), Style(reverse=True))
        return self._to_strip(text, Style(bold=is_current or is_marked))

    def _titles(self) -> list[str]:
        query = self.source.query
        arrow = "↓" if query.descending else "↑"
        return [
            f"{column.title}{arrow if query.sort and column.name == query.sort else ''}"
            for column in self.columns
        ]

    def _empty_text(self) -> str:
        words = self.source.query.filter
        return f"No row matches {words!r}." if words.strip() else self.empty

    def text_of(self, index: int) -> str:
        """The text of a row, visible or not."""
        return format_line(self.columns, self.source.row(index).cells, " ", self.size.width).plain.strip()

    def _to_strip(self, text: Text, style: Style) -> Strip:
        style = self.rich_style + style
        strip = Strip(text.render(self.app.console)).apply_style(style)
        return strip.adjust_cell_length(self.size.width, style)
