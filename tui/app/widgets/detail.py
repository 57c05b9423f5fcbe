"""Text that is longer than its place: scrolled with the keys of vim and of everyone else."""

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
    """A scrolled text: headings, fields, sentences."""

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
        # By its id each of them, which keeps the id its own, and what it came to at the width of the last wrapping: a
        # long log grows by a line at a time.
        self._drawn: dict[int, tuple[RenderableType, list[Strip]]] = {}
        # The line at which each part begins.
        self._begins: list[int] = []
        self._wrapped = 0

    def show(self, parts: Sequence[RenderableType], *, top: bool = False) -> None:
        """Show these one under the other; `top` scrolls back up. A part that is shown already is not drawn anew."""
        self._parts = tuple(parts)
        self._wrap()
        if top:
            self.scroll_to(y=0, animate=False, immediate=True)

    def on_resize(self) -> None:
        # Also sent when it is shown again, as it was.
        if self.room != self._wrapped:
            self._wrap()

    def _wrap(self) -> None:
        known = self._drawn if self._wrapped == self.room else {}
        self._wrapped = self.room
        self._drawn = {}
        console = self.app.console
        options = console.options.update(width=self.room, height=None, highlight=False)
        lines: list[Strip] = []
        self._begins = []
        for part in self._parts:
            self._begins.append(len(lines))
            _, drawn = known.get(id(part), (part, None))
            if drawn is None:
                drawn = [Strip(line) for line in console.render_lines(part, options, pad=False)]
            self._drawn[id(part)] = part, drawn
            lines += drawn
        self.put(lines)

    def show_part(self, number: int) -> None:
        """Scroll so that a part is seen, with some of what stands before it."""
        if number < len(self._begins):
            line = max(0, self._begins[number] - self.size.height // 3)
            self.scroll_to(y=line, animate=False, immediate=True)


def title(text: str) -> Text:
    """A heading."""
    return Text(sanitize(text), style="bold")


def error_text(text: str) -> Text:
    """A sentence that says what went wrong."""
    return Text(sanitize(f"✗ {text}"), style="bold red")


def fields(*pairs: tuple[str, object]) -> Table:
    """Names and values, one a line; those without a value are left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            table.add_row(Text(sanitize(name)), Text(sanitize(str(value))))
    return table
