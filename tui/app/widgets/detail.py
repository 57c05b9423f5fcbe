"""Text that scrolls with the keys of vim and with the usual ones."""

from collections.abc import Sequence
from typing import ClassVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.strip import Strip

from ...presentation.text import sanitize
from .lines import Lines


class Detail(Lines, can_focus=True):
    """Headings, fields and sentences that scroll."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", "down", show=False),
        Binding("k,up", "scroll_up", "up", show=False),
        Binding("g,home", "scroll_home", "top", show=False),
        Binding("G,end", "scroll_end", "end", show=False),
        Binding("ctrl+d,pagedown,space", "page_down", "page down", show=False),
        Binding("ctrl+u,pageup", "page_up", "page up", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._parts: tuple[RenderableType, ...] = ()
        # id of a part -> (the part, its lines at the last width). Keeping the part keeps its id unique. A growing log
        # draws only its new lines.
        self._drawn: dict[int, tuple[RenderableType, list[Strip]]] = {}
        # First line of each part.
        self._first_lines: list[int] = []
        self._wrapped_width = 0

    def show(self, parts: Sequence[RenderableType], *, top: bool = False) -> None:
        """Show the parts one below the other; `top` scrolls to the top. Only new parts are drawn."""
        self._parts = tuple(parts)
        self._wrap()
        if top:
            self.scroll_to(y=0, animate=False, immediate=True)

    def on_resize(self) -> None:
        # Textual also sends this when the widget becomes visible again at the same size.
        if self.room != self._wrapped_width:
            self._wrap()

    def _wrap(self) -> None:
        known = self._drawn if self._wrapped_width == self.room else {}
        self._wrapped_width = self.room
        self._drawn = {}
        console = self.app.console
        options = console.options.update(width=self.room, height=None, highlight=False)
        lines: list[Strip] = []
        self._first_lines = []
        for part in self._parts:
            self._first_lines.append(len(lines))
            _, drawn = known.get(id(part), (part, None))
            if drawn is None:
                drawn = [Strip(line) for line in console.render_lines(part, options, pad=False)]
            self._drawn[id(part)] = part, drawn
            lines += drawn
        self.put(lines)

    def show_part(self, number: int) -> None:
        """Scroll to a part, with some lines before it."""
        if number < len(self._first_lines):
            line = max(0, self._first_lines[number] - self.size.height // 3)
            self.scroll_to(y=line, animate=False, immediate=True)


def title(text: str) -> Text:
    """A heading."""
    return Text(sanitize(text), style="bold")


def one_line(text: str, style: str) -> Text:
    """A text that the edge of the screen cuts."""
    return Text(sanitize(text), style=style, no_wrap=True, overflow="ellipsis")


def error_text(text: str) -> Text:
    """An error."""
    return Text(sanitize(f"✗ {text}"), style="bold red")


def fields(*pairs: tuple[str, object]) -> Table:
    """Names and values, one per line; empty values are omitted."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            table.add_row(Text(sanitize(name)), Text(sanitize(str(value))))
    return table
