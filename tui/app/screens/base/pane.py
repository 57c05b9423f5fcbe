"""The base of the six panes: a list, the detail of its current row, and messages to the main screen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rich.console import RenderableType
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget

from .....store.catalog.catalog import Catalog
from .....store.errors import CatalogError
from ....actions.damage import READ_ERRORS
from ....cli_equivalent import command
from ...data.rows import Key, Listing, Query, UnreadableRow, load_row, load_rows, select_keys
from ...widgets.detail import Detail, error_text
from ...widgets.row_lines import Cells, Column, Row
from ...widgets.rows import Rows

if TYPE_CHECKING:
    from .....engine.jobs.specs import Spec
    from .form import Form

S = TypeVar("S", bound="Spec")
T = TypeVar("T")
Parts = list[RenderableType]

# The detail follows the cursor after this delay, so that moving down a list stays fast.
_REST_SECONDS = 0.12


@dataclass
class RunAction(Message):
    """Run an action that writes, in a thread. `act` returns its outcome in a few words."""

    cli_equivalent: str
    act: Callable[[], str]


@dataclass
class ActionRefused(Message):
    """An action is not possible here, with the reason."""

    reason: str


@dataclass
class ShowCommand(Message):
    """Show a command on the $ line. `by_hand`: because of a key, not because the list changed."""

    cli_equivalent: str
    by_hand: bool = True


@dataclass
class ModelSelected(Message):
    """Another model for the forms and the history."""

    model: str


class Pane(Vertical):
    """One noun: the list of its rows, the detail of one row, and its actions (the bindings of the subclass).

    An action that raises InputError or CatalogError is refused with that message (`RetconApp.run_action`).
    """

    heading: ClassVar[str] = ""
    # The command group of this noun; its `show` prints one row.
    noun: ClassVar[str] = ""
    columns: ClassVar[tuple[Column, ...]] = ()
    empty: ClassVar[str] = ""
    # Actions that write; a read-only app disables their keys.
    write_actions: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, catalog: Catalog, id: str) -> None:
        super().__init__(id=id)
        self.catalog = catalog
        self.model: str | None = None
        self.rows = Rows(self.columns, self.empty, self, self.listing.fields)
        self.detail: Widget = self.make_detail()
        self._rest_timer: Timer | None = None
        self.readonly = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="list"):
            yield self.rows
        with Vertical(classes="detail"):
            yield from self.compose_detail()

    def make_detail(self) -> Widget:
        """The widget that gets the focus when a row is opened."""
        return Detail()

    def compose_detail(self) -> ComposeResult:
        """The content of the detail area."""
        yield self.detail

    @property
    def listing(self) -> Listing[Any]:
        """The listing to show."""
        raise NotImplementedError

    @property
    def detail_listing(self) -> Listing[Any]:
        """The listing that reads the detail of a row."""
        return self.listing

    def cells(self, data: Any) -> Cells:
        """The cells of a row."""
        raise NotImplementedError

    def unreadable_cells(self, key: Key) -> Cells:
        """The cells of an unreadable row: its id, and a note in the first flexible column."""
        note = next(column for column in self.columns if not column.width)
        words: dict[str, str | Text] = {"id": str(key), note.title: Text("unreadable", style="red")}
        return tuple(words.get(column.title, "") for column in self.columns)

    def parts(self, data: Any) -> Parts:
        """The detail of a row as text."""
        raise NotImplementedError

    def read_keys(self, query: Query, limit: int | None) -> Sequence[Key]:
        """The keys of the list. Also called from a thread."""
        return select_keys(self.catalog, self.listing, query, limit)

    def read_rows(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """The lines of some rows."""
        rows = load_rows(self.catalog, self.listing, keys)
        return {key: self._line(key, data) for key, data in rows.items()}

    def _line(self, key: Key, data: Any) -> Row:
        if not isinstance(data, UnreadableRow):
            try:
                return Row(key, self.cells(data), value=data)
            except READ_ERRORS as error:
                data = UnreadableRow(key, f"it holds invalid data ({type(error).__name__}: {error})")
        return Row(key, self.unreadable_cells(key), is_unreadable=True, value=data)

    def selected(self, of: type[T]) -> T | None:
        """The data of the row under the cursor; None if there is no row or it is unreadable."""
        row = self.rows.row
        return row.value if row is not None and isinstance(row.value, of) else None

    def show_detail(self, *, is_new_row: bool) -> None:
        """Show the detail of a row. `is_new_row`: another row than before."""
        self.show_text(self.load_detail(), is_new_row=is_new_row)

    def load_detail(self) -> Any:
        """The data of the detail: an UnreadableRow if it is unreadable, None if there is no row."""
        key = self.rows.key
        return None if key is None else load_row(self.catalog, self.detail_listing, key)

    def cli_equivalent(self, key: Key) -> str:
        """The command that prints this row."""
        return command(self.noun, "show", key)

    def show_text(self, data: Any, *, is_new_row: bool) -> None:
        """Show the detail of a row as text; for an unreadable row, the error."""
        assert isinstance(self.detail, Detail)
        parts: Parts = []
        if isinstance(data, UnreadableRow):
            parts = [error_text(f"{data.id}: {data.reason}")]
        elif data is not None:
            try:
                parts = self.parts(data)
            except READ_ERRORS as error:
                parts = [error_text(f"this row holds invalid data ({type(error).__name__}: {error})")]
        self.detail.show(parts, top=is_new_row)

    def reload(self) -> None:
        """Read the catalog again; only changes are repainted."""
        before = self.rows.key
        self.rows.reload()
        if self.rows.key == before:
            self._show_detail_or_error(is_new_row=False)

    def _show_detail_or_error(self, *, is_new_row: bool) -> None:
        """Call `show_detail`, and report invalid data in the catalog."""
        try:
            self.show_detail(is_new_row=is_new_row)
        except CatalogError as error:
            self.post_message(ActionRefused(str(error)))
        except READ_ERRORS as error:
            reason = f"{self.rows.key} holds invalid data ({type(error).__name__}: {error})"
            self.post_message(ActionRefused(reason))

    def row_name(self) -> str:
        """The name of the row under the cursor in a command."""
        return "" if self.rows.key is None else str(self.rows.key)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim the keys that write if the app is read-only."""
        return None if self.readonly and action in self.write_actions else True

    def tick(self) -> None:
        """Called five times per second while the pane is visible, to read files outside the catalog."""

    def show_cli_equivalent(self, *, by_hand: bool = True) -> None:
        """Show the command that prints the selected row."""
        if self.rows.key is not None:
            self.post_message(ShowCommand(self.cli_equivalent(self.rows.key), by_hand))

    def submit(self, spec: "Spec", cli_equivalent: str) -> None:
        """Start a job and show the equivalent command."""
        catalog = self.catalog

        def start() -> str:
            from .....engine.jobs import control

            return f"job {control.submit(catalog, spec).id} queued"

        self.post_message(RunAction(cli_equivalent, start))

    def open_form(self, form: "Form[S]") -> None:
        """Open a form and start its job."""

        def start(spec: S | None) -> None:
            if spec is not None:
                self.submit(spec, form.cli_equivalent(spec))

        self.app.push_screen(form, start)

    def confirm(self, question: str, verb: str, cli_equivalent: str, act: Callable[[], str]) -> None:
        """Show a dialog for confirmation. Runs `act` if the user confirms."""

        from .confirm import Confirm

        def run(yes: bool | None) -> None:
            if yes:
                self.post_message(RunAction(cli_equivalent, act))

        self.app.push_screen(Confirm(question, verb, cli_equivalent), run)

    @property
    def is_detail_behind(self) -> bool:
        """Whether the detail still shows an earlier row."""
        return self._rest_timer is not None

    def take_focus(self) -> None:
        """Focus the detail if a row is open, else the list."""
        # At once, not at the next turn of the event loop: the next keys of a burst go to the new focus.
        self.screen.set_focus(self.detail if self.has_class("-open") else self.rows)

    def close(self) -> bool:
        """Close the detail; False if it is closed already."""
        if not self.has_class("-open"):
            return False
        self.remove_class("-open")
        # In the narrow layout the list was hidden, and Textual applies the style sheet later. Display it at once, since
        # the next keys of a burst go to the list.
        list_area = self.query_one(".list")
        list_area.styles.display = "block"
        self.screen.set_focus(self.rows)
        self.call_after_refresh(list_area.styles.clear_rule, "display")
        return True

    def on_descendant_focus(self, _event: events.DescendantFocus) -> None:
        # The current focus, which may differ from the focus when the event was posted.
        focused = self.screen.focused
        self.set_class(
            focused is not None and focused is not self.rows and self in focused.ancestors, "-open"
        )

    @on(Rows.Selected)
    def _selected(self, event: Rows.Selected) -> None:
        if self._rest_timer is not None:
            self._rest_timer.stop()
            self._rest_timer = None
        if event.by_hand:
            self._rest_timer = self.set_timer(_REST_SECONDS, self.update_detail)
        else:
            self.update_detail(show_command=False)
            self.show_cli_equivalent(by_hand=False)

    def update_detail(self, *, show_command: bool = True) -> None:
        """Show the detail of the row under the cursor now. `show_command`: also show its command."""
        if self._rest_timer is not None:
            self._rest_timer.stop()
            self._rest_timer = None
        self._show_detail_or_error(is_new_row=True)
        if show_command:
            self.show_cli_equivalent()

    def on_key(self, event: events.Key) -> None:
        """Update the detail before an action, so that the action applies to the row under the cursor."""
        if self.is_detail_behind and event.key not in self.rows.navigation_keys:
            self.update_detail()
        bound = self._bindings.key_to_bindings.get(event.key, ())
        if self.readonly and any(binding.action.partition("(")[0] in self.write_actions for binding in bound):
            self.post_message(ActionRefused("the app is read-only (--readonly)"))

    def open_row(self) -> None:
        """Open the row under the cursor."""
        if self.is_detail_behind:
            self.update_detail()
        self.add_class("-open")
        self.screen.set_focus(self.detail)
