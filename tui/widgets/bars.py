"""The lines at the edges of the screen: the tabs, and the command that does the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.message import Message
from textual.widget import Widget

from ..plain import cut, plain


class TabBar(Widget):
    """`▌1 Models▐ 2 Traces …`; the one that is shown is marked by more than its colour."""

    @dataclass
    class Chosen(Message):
        """A tab was clicked."""

        name: str

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.active = self.names[0]

    def show(self, name: str) -> None:
        """Mark a tab."""
        if name != self.active:
            self.active = name
            self.refresh()

    def _labels(self) -> list[tuple[str, str]]:
        return [
            (name, f"▌{index} {name.title()}▐" if name == self.active else f" {index} {name.title()} ")
            for index, name in enumerate(self.names, 1)
        ]

    def render(self) -> Text:
        text = Text(no_wrap=True, end="")
        for name, label in self._labels():
            text.append(label, style="bold reverse" if name == self.active else "")
            text.append(" ")
        return text

    def on_click(self, event: events.Click) -> None:
        at = 0
        for name, label in self._labels():
            if at <= event.x < at + len(label):
                self.post_message(self.Chosen(name))
            at += len(label) + 1


class CommandLine(Widget):
    """The twin of what is selected or was just done, and what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = ""
        self.outcome, self._style = "", ""

    def show(self, twin: str, outcome: str = "", style: str = "") -> None:
        """Show a command; `outcome` stays until the next one."""
        if (twin, outcome, style) != (self.twin, self.outcome, self._style):
            self.twin, self.outcome, self._style = twin, outcome, style
            self.refresh()

    def render(self) -> Text:
        width = self.size.width
        outcome = cut(plain(self.outcome), width - 1)
        room = width - cell_len(outcome) - 2
        text = Text(no_wrap=True, end="")
        if self.twin and room > 16:
            text.append(cut(f"$ {plain(self.twin)}", room), style="green")
            text.append("  " if outcome else "")
        return text.append(outcome, style=self._style)
