"""Format the rows of a list as lines: flexible columns take the remaining width; narrow lists drop columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from ...presentation.text import sanitize
from ..data.rows import Key

Cells = tuple[str | Text, ...]


@dataclass(frozen=True)
class Column:
    """A column; widths are in terminal cells, and `width` 0 takes the remaining width.

    If the remaining width is less than `least`, the column with the highest `drop` is hidden first.

    `field` is the field of the listing to sort by, by default the title.
    """

    title: str
    width: int = 0
    drop: int = 0
    least: int = 12
    field: str = ""

    @property
    def name(self) -> str:
        """The field of the listing that the column shows."""
        return self.field or self.title


@dataclass(frozen=True)
class Row:
    """A line of the list. Cells are plain text or styled `Text`, cut to their column.

    `value` is the data of the row, for actions. Rows with equal cells are equal.
    """

    key: Key
    cells: Cells
    is_unreadable: bool = False
    value: object = field(default=None, compare=False, repr=False)


def format_line(columns: Sequence[Column], cells: Sequence[str | Text], mark: str, width: int) -> Text:
    """The cells side by side in `width` terminal columns."""
    text = Text(mark, end="")
    for index, room in column_widths(columns, width):
        cell = cells[index] if index < len(cells) else ""
        piece = cell.copy() if isinstance(cell, Text) else Text(sanitize(cell), end="")
        if cell_len(piece.plain) > room:
            piece.truncate(room, overflow="ellipsis")
        piece.append(" " * (room - cell_len(piece.plain) + 1))
        text.append_text(piece)
    text.plain  # noqa: B018 - joins the pieces once
    return text


def column_widths(columns: Sequence[Column], width: int) -> list[tuple[int, int]]:
    """(index, width in terminal cells) of the visible columns."""
    shown = list(range(len(columns)))
    while True:
        fixed = sum(columns[index].width for index in shown) + len(shown) + 1
        flexible = [index for index in shown if not columns[index].width]
        left = width - fixed
        least = max(shown, key=lambda index: columns[index].drop)
        if left >= sum(columns[index].least for index in flexible) or columns[least].drop == 0:
            break
        shown.remove(least)
    share = max(1, left // max(1, len(flexible)))
    return [(index, columns[index].width or share) for index in shown]


def bar(part: float, width: int) -> str:
    """A bar of `width` columns for a share from 0 to 1, drawn in eighths of a column."""
    eighths = round(max(0.0, min(1.0, part)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width, "─")
