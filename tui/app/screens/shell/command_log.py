"""The commands of this session."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from ....presentation.text import sanitize
from ..base.detail_screen import DetailScreen
from ..base.pane import Parts


class CommandLog(DetailScreen):
    """The commands, oldest first, each with its outcome."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,backspace,at,enter", "dismiss", "back")]

    def __init__(self, commands: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._commands = commands

    def parts(self, width: int) -> Parts:
        text = Text("Commands of this session\n", style="bold")
        for cli_equivalent, outcome in self._commands:
            if cli_equivalent:
                text.append(f"$ {sanitize(cli_equivalent)}\n", style="green")
            text.append(f"  {sanitize(outcome)}\n", style="bold red" if outcome.startswith("✗") else "dim")
        if not self._commands:
            text.append("None yet. Each action in the app appears here as the equivalent command.")
        return [text]
