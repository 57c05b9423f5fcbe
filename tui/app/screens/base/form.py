"""A small form: some lines of input, checked while one types, and the command line that it comes to."""

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
    """One line of a form."""

    name: str
    label: str
    value: str = ""
    hint: str = ""


class Form(ModalScreen[T | None], Generic[T]):
    """Dismissed with what `read` makes of the values, or with None.

    A form says `title_text`, `fields`, `read` and `twin`; `read` raises InputError or CatalogError with the
    sentence to show.
    """

    title_text: ClassVar[str] = ""
    keys_text: ClassVar[str] = "Enter starts it · Tab next line · Esc or Ctrl-C cancels"
    BINDINGS: ClassVar[list[BindingType]] = [
        # Esc may be half a second late through tmux, so it is never the only way back.
        Binding("escape,ctrl+c", "cancel", "cancel", priority=True),
        Binding("enter", "submit", "start", priority=True),
        Binding("down", "app.focus_next", "next line", show=False),
        Binding("up", "app.focus_previous", "line before", show=False),
    ]

    def fields(self) -> list[Field]:
        """The lines."""
        raise NotImplementedError

    def read(self, values: dict[str, str]) -> T:
        """What the values mean. Raises InputError, CatalogError."""
        raise NotImplementedError

    def cli_equivalent(self, value: T) -> str:
        """The command that does the same."""
        raise NotImplementedError

    def cost(self, value: T) -> str:
        """What it will cost here, in a line; empty where nobody knows."""
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
        """What stands in the lines, by the fields' names."""
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
