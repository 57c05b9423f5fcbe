"""Ask for confirmation: one sentence, and Cancel has the focus."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from ....presentation.text import sanitize_lines
from ...widgets.detail import one_line


class Confirm(ModalScreen[bool]):
    """`question` names the action, its object and whether it can be undone; `cli_equivalent` is the same command."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,q,escape,backspace", "answer(False)", "cancel"),
        Binding("h,l,left,right,tab", "app.focus_next", "other button", show=False),
    ]

    def __init__(self, question: str, verb: str, cli_equivalent: str) -> None:
        super().__init__()
        self.question, self.verb, self.cli_equivalent = question, verb, cli_equivalent

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(Text(sanitize_lines(self.question)), id="question")
            yield Static(one_line(f"$ {self.cli_equivalent}", "dim"))
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", action="screen.answer(False)", compact=True)
                yield Button(self.verb, id="yes", action="screen.answer(True)", compact=True)

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)
