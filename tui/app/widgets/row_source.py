"""The content of a list without its drawing: keys, query and marks; rows are read when they become visible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from rich.text import Text

from ....store.errors import CatalogError
from ..data.rows import Key, Query
from .row_lines import Row

_BLOCK = 60
_MAX_CACHED = 1200


class RowReader(Protocol):
    """Reads the rows of a list. Both reads raise CatalogError; `read_keys` also InputError for an invalid filter."""

    def read_keys(self, query: Query, limit: int | None) -> Sequence[Key]: ...

    def read_rows(self, keys: Sequence[Key]) -> Mapping[Key, Row]: ...

    def open_row(self) -> None:
        """Open the row under the cursor. Called at once, so that the next keys of a burst go to the opened row."""


class RowSource:
    """Keys, query, marks and cached rows. `on_error` receives the message of a failed read."""

    def __init__(self, reader: RowReader, on_error: Callable[[str], object]) -> None:
        self.reader = reader
        self.keys: Sequence[Key] = ()
        self.query = Query()
        self.marked: set[Key] = set()
        # Number of rows without a filter.
        self.total = 0
        self._on_error = on_error
        self._cache: dict[Key, Row] = {}
        self._last_mark: Key | None = None

    def set_keys(self, keys: Sequence[Key]) -> None:
        """Replace the keys after a read."""
        self.keys = keys
        if not self.query.filter.strip():
            self.total = len(keys)

    def index_of(self, key: Key | None) -> int | None:
        """Position of a key; None if it is not in the list."""
        try:
            return None if key is None else self.keys.index(key)
        except (ValueError, TypeError):
            return None

    def row(self, index: int) -> Row:
        """The row at a position; a block of rows around it is read if necessary."""
        key = self.keys[index]
        if key not in self._cache:
            if len(self._cache) > _MAX_CACHED:
                self._cache.clear()
            begin = index // _BLOCK * _BLOCK
            self._cache |= self._read(self.keys[begin : begin + _BLOCK])
        # A row that was removed after its key was read: the next reload removes the key as well.
        return self._cache.setdefault(key, Row(key, (str(key), "removed"), is_unreadable=True))

    def clear_cache(self) -> None:
        """Read each row again when it is next visible."""
        self._cache.clear()

    def reread(self, view: range) -> dict[int, tuple[Row | None, Row | None]]:
        """Read the rows in `view` again; returns position -> (old, new) for the rows that differ."""
        old = self._cache
        self._cache = dict(self._read(self.keys[view.start : view.stop]))
        pairs = {index: (old.get(self.keys[index]), self._cache.get(self.keys[index])) for index in view}
        return {index: pair for index, pair in pairs.items() if pair[0] != pair[1]}

    def _read(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        if not len(keys):
            return {}
        try:
            return self.reader.read_rows(keys)
        except CatalogError as error:
            self._on_error(str(error))
            unreadable = Text("cannot be read", style="red")
            return {key: Row(key, (str(key), unreadable), is_unreadable=True) for key in keys}

    # -- marks

    def marked_rows(self) -> list[Row]:
        """The marked rows, in the order of the list."""
        keys = [key for key in self.keys if key in self.marked]
        rows: list[Row] = []
        for begin in range(0, len(keys), _BLOCK):
            block = keys[begin : begin + _BLOCK]
            read = self.reader.read_rows(block)
            rows += [read[key] for key in block if key in read]
        return rows

    def toggle_mark(self, key: Key) -> None:
        """Mark a row, or remove its mark."""
        self.marked ^= {key}
        self._last_mark = key

    def mark_to(self, cursor: int) -> None:
        """Mark all rows from the row that was marked last to `cursor`."""
        last = self.index_of(self._last_mark)
        begin, end = sorted((cursor if last is None else last, cursor))
        self.marked |= set(self.keys[begin : end + 1])

    def toggle_all_marks(self) -> None:
        """Remove all marks; if there are none, mark all rows."""
        self.marked = set() if self.marked else set(self.keys)

    # -- order

    def query_with_next_sort(self, names: Sequence[str]) -> Query:
        """The query sorted by the next of the columns `names`; after the last one, newest first again."""
        order = ["", *names]
        position = order.index(self.query.sort) + 1 if self.query.sort in order else 0
        return replace(self.query, sort=order[position % len(order)], descending=False)

    def query_sorted_by(self, name: str) -> Query:
        """The query sorted by a column; in the other direction if it is sorted by this column already."""
        descending = self.query.sort == name and not self.query.descending
        return replace(self.query, sort=name, descending=descending)
