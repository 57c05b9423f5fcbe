"""The list under all five nouns: it holds the keys of all rows, and reads those rows that are looked at.

Drawn line by line, so that a moved cursor repaints two lines and nothing else: the way home may be a slow SSH line.
A list that is long is read in a thread; what is on the screen is never waited for.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import ClassVar, Protocol

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
from .lines import changed
from .row_lines import Column, Row, line, widths

# So many keys are read at once; a list that has more is read whole in a thread.
FIRST = 2000
_BLOCK = 60
_MOST_CACHED = 1200
_PAINTED_SECONDS = 0.1
# How long a long list that has changed again waits before it is read again.
_AGAIN_SECONDS = 1.0


class Source(Protocol):
    """Where the rows come from. Both raise CatalogError; `read_keys` also InputError for a filter that is none."""

    def read_keys(self, query: Query, limit: int | None) -> Sequence[Key]: ...

    def read_rows(self, keys: Sequence[Key]) -> Mapping[Key, Row]: ...

    def open_row(self) -> None:
        """Enter on a row. Called at once: the keys after it, typed in a burst, belong to the row."""


class Rows(ScrollView, can_focus=True, inherit_bindings=False):
    """The list. Posts `Selected` when another row has the cursor."""

    heading = "The list"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "next row", show=False),
        Binding("k,up", "move(-1)", "row before", show=False),
        Binding("g,home", "move(-1000000000)", "first row", show=False),
        Binding("G,end", "move(1000000000)", "last row", show=False),
        Binding("ctrl+d,pagedown", "page(1)", "page down", show=False),
        Binding("ctrl+u,pageup", "page(-1)", "page up", show=False),
        Binding("enter,l,right", "open", "open", show=False),
        Binding("space", "mark", "mark this row", show=False),
        Binding("v", "mark_to", "mark from the last marked row to here", show=False),
        Binding("asterisk", "mark_all", "mark all rows, or none", show=False),
        Binding("o", "sort", "order by the next column", show=False),
        Binding("O", "reverse", "the other way round", show=False),
    ]

    @dataclass
    class Selected(Message):
        """The cursor stands on another row; None: there is none. `by_hand`: a key or the mouse moved it."""

        rows: "Rows"
        key: Key | None
        by_hand: bool = False

        @property
        def control(self) -> "Rows":
            return self.rows

    @dataclass
    class Changed(Message):
        """How many rows there are, which are shown, or which are marked."""

        rows: "Rows"

    @dataclass
    class Failed(Message):
        """The rows could not be read, and why."""

        reason: str

    def __init__(
        self, columns: Sequence[Column], empty: str, source: Source, sortable: Collection[str]
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.empty = empty
        self.keys: Sequence[Key] = ()
        self.cursor = 0
        self.row_query = Query()
        self.marked: set[Key] = set()
        # How many there are without a filter.
        self.total = 0
        self._source = source
        self._sortable = sortable
        self._cache: dict[Key, Row] = {}
        # Whether `keys` are all of them, or the first of a long list; whether they are being read, and again.
        self._whole = True
        self._reading = False
        self._again = False
        self._wanted: Key | None = None
        self._last_mark: Key | None = None

    @property
    def key(self) -> Key | None:
        """The key of the row under the cursor."""
        return self.keys[self.cursor] if len(self.keys) else None

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return self._row(self.cursor) if len(self.keys) else None

    @property
    def selected_rows(self) -> list[Row]:
        """The rows that are marked, in the order of the list; if none are, the one under the cursor."""
        if not self.marked:
            return [self.row] if self.row is not None else []
        found = [key for key in self.keys if key in self.marked]
        rows: list[Row] = []
        for begin in range(0, len(found), _BLOCK):
            read = self._source.read_rows(found[begin : begin + _BLOCK])
            rows += [read[key] for key in found[begin : begin + _BLOCK] if key in read]
        return rows

    @property
    def navigation_keys(self) -> Collection[str]:
        """The keys that move, mark and order."""
        return self._bindings.key_to_bindings.keys() - {"enter", "l", "right"}

    # -- what is shown

    def reload(self) -> None:
        """Read anew; the cursor stays on its row if that is still there. Only lines that differ are repainted."""
        if len(self.keys) >= FIRST:
            self._read_whole()
            self._freshen()
            return
        try:
            keys = self._source.read_keys(self.row_query, FIRST)
        except (CatalogError, InputError) as error:
            self.post_message(self.Failed(str(error)))
            return
        self._take(keys, whole=len(keys) < FIRST)
        if len(keys) == FIRST:
            # Not before these are painted.
            self.set_timer(_PAINTED_SECONDS, self._read_whole)

    def set_query(self, query: Query) -> None:
        """Show other rows, or in another order."""
        if query == self.row_query:
            return
        self.row_query = query
        if self.total >= FIRST:
            # A word that few rows hold is looked for in all of them: not while someone waits.
            self._read_whole()
        else:
            self.reload()
        self.refresh_line(round(self.scroll_y))
        self.post_message(self.Changed(self))

    def select(self, key: Key) -> None:
        """Put the cursor on a row, as soon as it is read; where there is none with that key, nothing happens."""
        found = self._index(key)
        if found is None:
            self._wanted = key
        else:
            self._move_to(found)

    def _read_whole(self) -> None:
        if self._reading:
            self._again = True
            return
        self._reading, self._again = True, False
        query = self.row_query

        def read() -> None:
            keys: Sequence[Key] | None = None
            try:
                keys = self._source.read_keys(query, None)
            except (CatalogError, InputError) as error:
                self.post_message(self.Failed(str(error)))
            self.app.call_from_thread(self._have_read, query, keys)

        self.run_worker(read, thread=True, group="keys", exit_on_error=False)

    def _have_read(self, query: Query, keys: Sequence[Key] | None) -> None:
        self._reading = False
        if keys is not None and query == self.row_query:
            self._take(keys, whole=True)
        if query != self.row_query:
            self._read_whole()
        elif self._again:
            self._again = False
            self.set_timer(_AGAIN_SECONDS, self._read_whole)

    def _take(self, keys: Sequence[Key], *, whole: bool) -> None:
        """Other keys; the rows that are seen are read anew."""
        before, key, was_empty = self.keys, self.key, not len(self.keys)
        self.keys, self._whole = keys, whole
        if not self.row_query.filter.strip():
            self.total = len(keys)
        if self._wanted is not None and (found := self._index(self._wanted)) is not None:
            self._wanted, cursor = None, found
        else:
            stays = key is not None and self.cursor < len(keys) and keys[self.cursor] == key
            found = self.cursor if stays else self._index(key) if key is not None else None
            cursor = found if found is not None else max(0, min(self.cursor, len(keys) - 1))
        moved, self.cursor = cursor != self.cursor, cursor
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        if len(before) == len(keys) and not moved and self._same_in_view(before):
            self._freshen()
        else:
            self._cache.clear()
            self._keep_in_view()
            self.refresh()
        if self.key != key or was_empty:
            self.post_message(self.Selected(self, self.key))
        if len(before) != len(keys):
            self.post_message(self.Changed(self))

    def _index(self, key: Key) -> int | None:
        try:
            return self.keys.index(key)
        except (ValueError, TypeError):
            return None

    def _in_view(self) -> range:
        top = round(self.scroll_y)
        return range(top, min(len(self.keys), top + max(1, self.size.height - 1)))

    def _same_in_view(self, before: Sequence[Key]) -> bool:
        view = self._in_view()
        return list(before[view.start : view.stop]) == list(self.keys[view.start : view.stop])

    def _freshen(self) -> None:
        """Read the rows in view anew, and repaint those that differ."""
        view, old = self._in_view(), self._cache
        self._cache = dict(self._read(self.keys[view.start : view.stop]))
        for index in view:
            before, after = old.get(self.keys[index]), self._cache.get(self.keys[index])
            if before is not None and after is not None and before != after:
                begin, end = changed(self._drawn(index, before), self._drawn(index, after))
                self.refresh(Region(begin, index + 1 - view.start, end - begin, 1))
            elif before != after:
                self._refresh_row(index)

    def _read(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        if not len(keys):
            return {}
        try:
            return self._source.read_rows(keys)
        except CatalogError as error:
            self.post_message(self.Failed(str(error)))
            return {
                key: Row(key, (str(key), Text("cannot be read", style="red")), is_unreadable=True)
                for key in keys
            }

    def _row(self, index: int) -> Row:
        key = self.keys[index]
        if key not in self._cache:
            if len(self._cache) > _MOST_CACHED:
                self._cache.clear()
            begin = index // _BLOCK * _BLOCK
            self._cache |= self._read(self.keys[begin : begin + _BLOCK])
        # Removed since the keys were read: the next look at the catalog takes it off the list.
        return self._cache.setdefault(key, Row(key, (str(key), "gone"), is_unreadable=True))

    # -- keys and mouse

    def action_move(self, by: int) -> None:
        if len(self.keys):
            self._move_to(max(0, min(self.cursor + by, len(self.keys) - 1)))

    def _move_to(self, cursor: int) -> None:
        if cursor == self.cursor:
            return
        before, self.cursor = self.cursor, cursor
        self._refresh_row(before)
        self._refresh_row(cursor)
        self._keep_in_view()
        self.post_message(self.Selected(self, self.key, by_hand=True))

    def _refresh_row(self, index: int) -> None:
        self.refresh_line(index + 1)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_open(self) -> None:
        if self.key is not None:
            self._source.open_row()

    def action_mark(self) -> None:
        if self.key is not None:
            self.marked ^= {self.key}
            self._last_mark = self.key
            self._refresh_row(self.cursor)
            self.action_move(1)
            self.post_message(self.Changed(self))

    def action_mark_to(self) -> None:
        last = self.keys.index(self._last_mark) if self._last_mark in self.keys else self.cursor
        begin, end = sorted((last, self.cursor))
        self.marked |= set(self.keys[begin : end + 1])
        self.refresh()
        self.post_message(self.Changed(self))

    def action_mark_all(self) -> None:
        self.marked = set() if self.marked else set(self.keys)
        self.refresh()
        self.post_message(self.Changed(self))

    def unmark(self) -> bool:
        """Mark nothing; False if nothing was marked."""
        if not self.marked:
            return False
        self.action_mark_all()
        return True

    def action_sort(self) -> None:
        """By the next column that is shown; after the last, newest first again."""
        shown = [self.columns[index].name for index, _ in widths(self.columns, self.size.width)]
        names = ["", *(name for name in shown if name in self._sortable)]
        after = (
            names[(names.index(self.row_query.sort) + 1) % len(names)] if self.row_query.sort in names else ""
        )
        self.set_query(replace(self.row_query, sort=after, descending=False))

    def action_reverse(self) -> None:
        if self.row_query.sort:
            self.set_query(replace(self.row_query, descending=not self.row_query.descending))

    def on_click(self, event: events.Click) -> None:
        index = event.y - 1 + round(self.scroll_y)
        if event.y == 0:
            self._sort_at(event.x)
        elif index < len(self.keys):
            self._move_to(index)
            if event.chain == 2:
                self.action_open()

    def _sort_at(self, x: int) -> None:
        at = 1
        for index, width in widths(self.columns, self.size.width):
            name = self.columns[index].name
            if at <= x <= at + width and name in self._sortable:
                back = self.row_query.sort == name and not self.row_query.descending
                self.set_query(replace(self.row_query, sort=name, descending=back))
            at += width + 1

    def on_focus(self) -> None:
        self._refresh_row(self.cursor)

    def on_blur(self) -> None:
        self._refresh_row(self.cursor)

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.keys) + 1)
        self._keep_in_view()

    def _keep_in_view(self) -> None:
        shown = max(1, self.size.height - 1)
        top = round(self.scroll_y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + shown:
            self.scroll_to(y=self.cursor - shown + 1, animate=False, immediate=True)

    # -- drawing

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._strip(line(self.columns, self._titles(), " ", width), Style(bold=True, dim=True))
        index = y - 1 + round(self.scroll_y)
        if index >= len(self.keys):
            lines = wrap(self._why_empty(), max(1, width - 2)) if not len(self.keys) else []
            return self._strip(Text(f" {lines[y - 1]}" if y <= len(lines) else "", end=""), Style(dim=True))
        return self._drawn(index, self._row(index))

    def _drawn(self, index: int, row: Row) -> Strip:
        here, marked = index == self.cursor, row.key in self.marked
        mark = ("◉" if marked else "▌") if here else "•" if marked else "!" if row.is_unreadable else " "
        text = line(self.columns, row.cells, mark, self.size.width)
        if here and self.has_focus:
            # Reversed colors would be a patchwork; the words and symbols say the same.
            return self._strip(Text(text.plain, end=""), Style(reverse=True))
        return self._strip(text, Style(bold=here or marked))

    def _titles(self) -> list[str]:
        arrow = "↓" if self.row_query.descending else "↑"
        by = self.row_query.sort
        return [f"{column.title}{arrow if by and column.name == by else ''}" for column in self.columns]

    def _why_empty(self) -> str:
        return f"No row holds {self.row_query.filter!r}." if self.row_query.filter.strip() else self.empty

    def text_of(self, index: int) -> str:
        """A row as it is drawn, wherever the list is scrolled to."""
        return line(self.columns, self._row(index).cells, " ", self.size.width).plain.strip()

    def _strip(self, text: Text, style: Style) -> Strip:
        style = self.rich_style + style
        return (
            Strip(text.render(self.app.console)).apply_style(style).adjust_cell_length(self.size.width, style)
        )
