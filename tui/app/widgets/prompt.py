"""The line where one types: `/` a filter of the list, `:` a command."""

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
    """Backspace in an empty line leaves it, as Esc may be slow to arrive through tmux."""

    def on_key(self, event: object) -> None:
        if getattr(event, "key", "") == "backspace" and not self.value:
            self.post_message(Prompt.Cancelled())


class Prompt(Horizontal):
    """Shown while one types. Posts `Typed` at each change, `Given` at Enter, `Left` when one thinks better of it."""

    heading = "While one types"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "leave", "leave it as it was", show=False, priority=True),
        Binding("up", "before(-1)", "the command before", show=False),
        Binding("down", "before(1)", "the next command", show=False),
        Binding("tab", "complete", "take what is suggested", show=False, priority=True),
    ]

    @dataclass
    class Typed(Message):
        """What stands in the line now."""

        kind: Kind
        text: str

    @dataclass
    class Submitted(Message):
        """Enter."""

        kind: Kind
        text: str

    class Cancelled(Message):
        """It was left."""

    def __init__(self) -> None:
        super().__init__()
        self.kind: Kind = "/"
        # Commands of this session, for the arrow keys; the place in them.
        self._history: list[str] = []
        self._at = 0
        self.display = False

    def compose(self) -> ComposeResult:
        yield Label("/", markup=False)
        line = _Line(compact=True, select_on_focus=False)
        line.cursor_blink = False
        yield line

    def open(self, kind: Kind, value: str, words: Sequence[str], hint: str) -> None:
        """Show it and take the focus; `words` are what it may suggest."""
        self.kind = kind
        self._at = len(self._history)
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
        """Hide it."""
        self.display = False

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.display:
            self.post_message(self.Typed(self.kind, event.value))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self.kind == ":" and event.value.strip():
            self._history.append(event.value)
        self.post_message(self.Submitted(self.kind, event.value))

    def action_leave(self) -> None:
        self.post_message(self.Cancelled())

    def action_complete(self) -> None:
        self.query_one(_Line).action_cursor_right()

    def action_before(self, by: int) -> None:
        if self.kind == ":" and self._history:
            self._at = max(0, min(self._at + by, len(self._history)))
            line = self.query_one(_Line)
            line.value = self._history[self._at] if self._at < len(self._history) else ""
            line.cursor_position = len(line.value)
