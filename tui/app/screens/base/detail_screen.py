"""A box with a text that scrolls, over the main screen."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from ...widgets.detail import Detail
from .pane import Parts


class DetailScreen(ModalScreen[None]):
    """A subclass writes the text in `parts`, and binds the keys that dismiss it."""

    def parts(self, width: int) -> Parts:
        """The text, for `width` columns."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Detail()

    def on_mount(self) -> None:
        detail = self.query_one(Detail)
        detail.show(self.parts(max(20, self.size.width - 6)))
        detail.focus()
