"""Lines drawn one by one, so that a change repaints only the lines that differ."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip


def differing_columns(before: Strip, after: Strip) -> tuple[int, int]:
    """First column in which two lines differ, and the column after the last one; the rest is not sent again."""
    old, new = _cells(before), _cells(after)
    width = max(len(old), len(new))
    old += [(" ", None)] * (width - len(old))
    new += [(" ", None)] * (width - len(new))
    differ = [index for index, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    return (differ[0], differ[-1] + 1) if differ else (0, 0)


def _cells(strip: Strip) -> list[tuple[str, Style | None]]:
    """(character, style) per column; empty strings follow a wide character."""
    cells: list[tuple[str, Style | None]] = []
    for text, style, _ in strip:
        if text.isascii():
            cells += [(character, style) for character in text]
            continue
        for character in text:
            cells.append((character, style))
            cells += [("", style)] * (cell_len(character) - 1)
    return cells


class Lines(ScrollView, inherit_bindings=False):
    """A block of lines that scrolls."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Strip] = []

    @property
    def room(self) -> int:
        """Columns for a line, without the scroll bar."""
        return max(10, self.scrollable_content_region.width)

    @property
    def text(self) -> str:
        """The content as plain text."""
        return "\n".join(line.text.rstrip() for line in self._lines)

    def put(self, lines: Sequence[Strip]) -> None:
        """Replace the content."""
        old, self._lines = self._lines, list(lines)
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))
        if len(old) != len(self._lines):
            self.refresh()
            return
        top = round(self.scroll_y)
        for index, (before, after) in enumerate(zip(old, self._lines, strict=True)):
            if before != after:
                begin, end = differing_columns(before, after)
                self.refresh(Region(begin, index - top, end - begin, 1))

    def render_line(self, y: int) -> Strip:
        index = y + round(self.scroll_y)
        line = self._lines[index] if index < len(self._lines) else Strip.blank(0)
        style = self.rich_style
        return line.apply_style(style).adjust_cell_length(self.size.width, style)
