"""The lines at the edges of the screen: tabs, equivalent command, keys."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

from ...presentation.text import cut, sanitize


class TabBar(Widget):
    """`▌1 Models▐ 2 Traces …`; the active tab has bars beside it, not only a color."""

    @dataclass
    class Chosen(Message):
        """The user clicked on a tab."""

        name: str

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.active = self.names[0]
        self._note, self._tail = "", ""
        self._counts: dict[str, int] = {}

    def show(self, name: str) -> None:
        """Mark a tab as active and reset its count."""
        if name != self.active:
            self.active = name
            self._counts.pop(name, None)
            self.refresh()

    def count(self, name: str) -> None:
        """Count one more event in a tab since it was last active."""
        self._counts[name] = self._counts.get(name, 0) + 1
        self.refresh()

    def note(self, text: str, read_log_tail: str = "") -> None:
        """Show `text` on the left and `tail` on the right. If both do not fit, `text` is shortened first."""
        if (text, read_log_tail) != (self._note, self._tail):
            self._note, self._tail = text, read_log_tail
            self.refresh()

    def _labels(self) -> list[tuple[str, str]]:
        labels = []
        for index, name in enumerate(self.names, 1):
            words = f"{index} {name.title()}" + (f" +{self._counts[name]}" if name in self._counts else "")
            labels.append((name, f"▌{words}▐" if name == self.active else f" {words} "))
        return labels

    def render(self) -> Text:
        text = Text(no_wrap=True, end="")
        for name, label in self._labels():
            text.append(label, style="bold reverse" if name == self.active else "")
        room = self.size.width - cell_len(text.plain) - 1
        read_log_tail = cut(f" {sanitize(self._tail)}" if self._tail else "", room)
        note = cut(sanitize(self._note), room - cell_len(read_log_tail)) + read_log_tail
        text.append(" " * (room - cell_len(note)))
        return text.append(note, style="bold" if note.startswith("✗") else "dim")

    def on_click(self, event: events.Click) -> None:
        begin = 0
        for name, label in self._labels():
            if begin <= event.x < begin + len(label):
                self.post_message(self.Chosen(name))
            begin += len(label)


class CommandLine(Widget):
    """The command that is equivalent to the selection or the last action, and its outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.cli_equivalent = ""
        self.outcome, self._style = "", ""

    def show(self, cli_equivalent: str, outcome: str = "", style: str = "") -> None:
        """Show a command. Its `outcome` stays until the next one."""
        if (cli_equivalent, outcome, style) != (self.cli_equivalent, self.outcome, self._style):
            self.cli_equivalent, self.outcome, self._style = cli_equivalent, outcome, style
            self.refresh()

    def render(self) -> Text:
        width = self.size.width
        outcome = cut(sanitize(self.outcome), width - 1)
        room = width - cell_len(outcome) - 2
        text = Text(no_wrap=True, end="")
        if self.cli_equivalent and room > 16:
            text.append(cut(f"$ {sanitize(self.cli_equivalent)}", room), style="green")
            text.append("  " if outcome else "")
        return text.append(outcome, style=self._style)


# Actions whose keys are always visible.
_ALWAYS = ("back", "help")


@dataclass(frozen=True)
class _Hint:
    """A key as displayed; `key` is Textual's name of it."""

    shown: str
    description: str
    key: str
    enabled: bool
    always: bool

    @property
    def width(self) -> int:
        return cell_len(self.shown) + cell_len(self.description) + 3


class KeyHints(Widget):
    """The active keys in one line; disabled keys are dim. A click presses a key.

    Textual's own footer makes one widget per key, which would dominate the cost of a tab switch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hints: list[_Hint] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._update)

    def _update(self, screen: Screen[object]) -> None:
        if screen is not self.app.screen:
            return
        hints: dict[str, _Hint] = {}
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and not binding.system:
                key = self.app.get_key_display(binding)
                always = binding.action.partition("(")[0] in _ALWAYS
                hint = _Hint(key, binding.description, binding.key, active.enabled, always)
                hints.setdefault(binding.action, hint)
        if list(hints.values()) != self._hints:
            self._hints = list(hints.values())
            self.refresh()

    def _visible_hints(self) -> list[_Hint]:
        """The hints that fit. Those of `_ALWAYS` come last and are always included."""
        always = [hint for hint in self._hints if hint.always]
        room = self.size.width - sum(hint.width for hint in always)
        verbs = [hint for hint in self._hints if not hint.always]
        while verbs and sum(hint.width for hint in verbs) > room:
            verbs.pop()
        return verbs + always

    def render(self) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        for hint in self._visible_hints():
            text.append(f" {hint.shown}", style="bold cyan" if hint.enabled else "dim strike")
            text.append(f" {hint.description} ", style="" if hint.enabled else "dim")
        return text

    def on_click(self, event: events.Click) -> None:
        begin = 0
        for hint in self._visible_hints():
            if begin <= event.x < begin + hint.width:
                self.app.simulate_key(hint.key.split(",")[0])
            begin += hint.width
