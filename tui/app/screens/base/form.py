"""A form: input lines that are checked while the user types, and the equivalent command."""

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from .....store.errors import CatalogError, InputError
from ....presentation.text import sanitize

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """One input line of a form."""

    name: str
    label: str
    value: str = ""
    hint: str = ""


class Form(ModalScreen[T | None], Generic[T]):
    """Dismissed with the result of `read`, or with None.

    A subclass defines `title_text`, `fields`, `read` and `cli_equivalent`.
    """

    title_text: ClassVar[str] = ""
    keys_text: ClassVar[str] = "Enter starts the job · Tab next line · Esc or Ctrl-C cancels"
    BINDINGS: ClassVar[list[BindingType]] = [
        # tmux may delay Esc by half a second, so it is never the only key to close.
        Binding("escape,ctrl+c", "cancel", "cancel", priority=True),
        Binding("enter", "submit", "start", priority=True),
        Binding("down", "app.focus_next", "next line", show=False),
        Binding("up", "app.focus_previous", "previous line", show=False),
    ]

    def fields(self) -> list[Field]:
        """The input lines."""
        raise NotImplementedError

    def read(self, values: dict[str, str]) -> T:
        """Convert the values. Raises InputError or CatalogError with the sentence to show."""
        raise NotImplementedError

    def cli_equivalent(self, value: T) -> str:
        """The equivalent command."""
        raise NotImplementedError

    def cost(self, value: T) -> str:
        """The cost on this machine in one line; empty if unknown."""
        return ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(Text(self.title_text, style="bold"))
            for field in self.fields():
                with Horizontal(classes="field"):
                    yield Label(field.label, markup=False)
                    line = Input(sanitize(field.value), id=field.name, placeholder=field.hint, compact=True)
                    line.cursor_blink = False
                    yield line
            yield Static(id="verdict", markup=False)
            yield Static(Text(self.keys_text, style="dim"), classes="keys")

    def on_mount(self) -> None:
        empty = [line for line in self.query(Input) if not line.value]
        (empty[0] if empty else self.query(Input).first()).focus()
        self._check()

    def on_input_changed(self) -> None:
        self._check()

    def values(self) -> dict[str, str]:
        """The value of each input line by field name."""
        return {line.id or "": line.value for line in self.query(Input)}

    def action_cancel(self) -> None:
        self.dismiss(None)

    def action_submit(self) -> None:
        try:
            value = self.read(self.values())
        except (InputError, CatalogError) as error:
            self._show_message(Text(f"✗ {sanitize(str(error))}", style="bold red"))
            self.app.bell()
            return
        self.dismiss(value)

    def _check(self) -> None:
        try:
            value = self.read(self.values())
            cost = self.cost(value)
        except (InputError, CatalogError) as error:
            self._show_message(Text(f"· {sanitize(str(error))}", style="yellow"))
            return
        text = Text(f"$ {sanitize(self.cli_equivalent(value))}", style="green")
        self._show_message(text.append(f"\n{cost}", style="dim") if cost else text)

    def _show_message(self, text: Text) -> None:
        self.query_one("#verdict", Static).update(text)
