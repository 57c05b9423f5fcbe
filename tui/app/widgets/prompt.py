"""The input line: `/` filters the list, `:` takes a command."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label

Kind = Literal["/", ":"]


class _Line(Input):
    """Backspace in an empty line closes it, because tmux may delay Esc."""

    def on_key(self, event: object) -> None:
        if getattr(event, "key", "") == "backspace" and not self.value:
            self.post_message(Prompt.Cancelled())


class Prompt(Horizontal):
    """Visible while the user types. Posts `Typed` at each change, `Submitted` at Enter, `Cancelled` when closed."""

    heading = "The input line"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "leave", "cancel", show=False, priority=True),
        Binding("up", "before(-1)", "previous command", show=False),
        Binding("down", "before(1)", "next command", show=False),
        Binding("tab", "complete", "accept the suggestion", show=False, priority=True),
    ]

    @dataclass
    class Typed(Message):
        """The text changed."""

        kind: Kind
        text: str

    @dataclass
    class Submitted(Message):
        """Enter was pressed."""

        kind: Kind
        text: str

    class Cancelled(Message):
        """The line was closed without Enter."""

    def __init__(self) -> None:
        super().__init__()
        self.kind: Kind = "/"
        # Commands of this session for the arrow keys, and the position in them.
        self._history: list[str] = []
        self._position = 0
        self.display = False

    def compose(self) -> ComposeResult:
        yield Label("/", markup=False)
        line = _Line(compact=True, select_on_focus=False)
        line.cursor_blink = False
        yield line

    def open(self, kind: Kind, value: str, words: Sequence[str], hint: str) -> None:
        """Show the line and focus it; `words` are the suggestions."""
        self.kind = kind
        self._position = len(self._history)
        self.query_one(Label).update(kind)
        line = self.query_one(_Line)
        line.suggester = SuggestFromList(words, case_sensitive=False) if words else None
        line.placeholder = hint
        with line.prevent(Input.Changed):
            line.value = value
        line.cursor_position = len(value)
        self.display = True
        self.screen.set_focus(line)

    def close(self) -> None:
        """Hide the line."""
        self.display = False

    @on(Input.Changed)
    def _on_changed(self, event: Input.Changed) -> None:
        if self.display:
            self.post_message(self.Typed(self.kind, event.value))

    @on(Input.Submitted)
    def _on_submitted(self, event: Input.Submitted) -> None:
        if self.kind == ":" and event.value.strip():
            self._history.append(event.value)
        self.post_message(self.Submitted(self.kind, event.value))

    def action_leave(self) -> None:
        self.post_message(self.Cancelled())

    def action_complete(self) -> None:
        self.query_one(_Line).action_cursor_right()

    def action_before(self, by: int) -> None:
        if self.kind == ":" and self._history:
            self._position = max(0, min(self._position + by, len(self._history)))
            line = self.query_one(_Line)
            line.value = self._history[self._position] if self._position < len(self._history) else ""
            line.cursor_position = len(line.value)
