"""A box with a text that scrolls, over the main screen."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from ...widgets.detail import Detail
from .pane import Parts


class DetailScreen(ModalScreen[None]):
    """Shows the parts that `write` returns for a width. `key`, which opened the screen, also closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,backspace,enter", "dismiss", "back")]

    def __init__(self, write: Callable[[int], Parts], key: str) -> None:
        super().__init__()
        self._write = write
        self._bindings.bind(key, "dismiss", "back")

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Detail()

    def on_mount(self) -> None:
        detail = self.query_one(Detail)
        detail.show(self._write(max(20, self.size.width - 6)))
        detail.focus()
