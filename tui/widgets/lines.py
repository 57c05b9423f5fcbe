"""Lines that are drawn one by one, so that a change repaints the lines that differ and nothing else."""

from collections.abc import Sequence

from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip


class Lines(ScrollView, inherit_bindings=False):
    """A scrolled block of lines."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Strip] = []

    @property
    def room(self) -> int:
        """Columns for a line, without the scroll bar's."""
        return max(10, self.scrollable_content_region.width)

    @property
    def text(self) -> str:
        """What is shown, as plain text."""
        return "\n".join(line.text.rstrip() for line in self._lines)

    def put(self, lines: Sequence[Strip]) -> None:
        """Show these lines instead."""
        old, self._lines = self._lines, list(lines)
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))
        if len(old) != len(self._lines):
            self.refresh()
            return
        for index, (before, after) in enumerate(zip(old, self._lines, strict=True)):
            if before != after:
                self.refresh_line(index)

    def render_line(self, y: int) -> Strip:
        index = y + round(self.scroll_y)
        line = self._lines[index] if index < len(self._lines) else Strip.blank(0)
        return line.apply_style(self.rich_style).adjust_cell_length(self.size.width, self.rich_style)
