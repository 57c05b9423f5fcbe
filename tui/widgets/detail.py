"""Text that is longer than its place: scrolled with the keys of vim and of everyone else."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from ..plain import plain


class Detail(VerticalScroll, can_focus=True, inherit_bindings=False):
    """A scrolled text."""

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
        self._shown: Text | None = None

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def show(self, text: Text, *, top: bool = False) -> None:
        """Show a text, if it is another than before; `top` scrolls back up."""
        if text != self._shown:
            self._shown = text
            self.query_one(Static).update(text)
        if top:
            self.scroll_home(animate=False)

    @property
    def text(self) -> str:
        """What is shown."""
        return self._shown.plain if self._shown is not None else ""


def title(text: str) -> Text:
    """A heading line."""
    return Text(plain(text) + "\n", style="bold")


def fields(*pairs: tuple[str, object]) -> Text:
    """Names and values, one a line; those without a value are left out."""
    width = max((len(name) for name, _ in pairs), default=0)
    text = Text()
    for name, value in pairs:
        if value is None or value == "":
            continue
        text.append(f"{name:<{width}}  ", style="dim")
        text.append_text(value if isinstance(value, Text) else Text(plain(str(value))))
        text.append("\n")
    return text
