"""The commands of this session: what was done here, as one would have typed it."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from ....presentation.text import sanitize
from ...widgets.detail import Detail


class CommandLog(ModalScreen[None]):
    """The commands, oldest first, each with what came of it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,backspace,at,enter", "dismiss", "back")]

    def __init__(self, commands: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._commands = commands

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Detail()

    def on_mount(self) -> None:
        text = Text("Commands of this session\n", style="bold")
        for cli_equivalent, outcome in self._commands:
            if cli_equivalent:
                text.append(f"$ {sanitize(cli_equivalent)}\n", style="green")
            text.append(f"  {sanitize(outcome)}\n", style="bold red" if outcome.startswith("✗") else "dim")
        if not self._commands:
            text.append("None yet: what you start here is listed as the command that does the same.")
        detail = self.query_one(Detail)
        detail.show([text])
        detail.focus()
