"""Two revisions side by side on a prompt: probabilities of the next token, and the completion as it arrives."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from .....engine.jobs.prompting.client import PromptClient, PromptRequest
from .....store.catalog.catalog import Catalog
from ....cli_equivalent import command
from ....presentation.text import sanitize, token_label
from ...data.edits import REVISION, RevisionDetail
from ...data.rows import load_row
from ...widgets.detail import Detail, one_line, title
from ...widgets.row_lines import bar
from ..base.pane import Parts

_BAR = 16
_NAME = 14


@dataclass
class _Side:
    """The result of one revision so far."""

    revision: str
    message: str
    next: list[tuple[str, float]] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def parts(self, prompt: str) -> Parts:
        parts: Parts = [title(f"{self.revision}  {self.message}"), ""]
        for token, probability in self.next:
            name = token_label(token).strip()[:_NAME]
            parts.append(Text(f"{name:<{_NAME}} {probability:7.4f} {bar(probability, _BAR).rstrip('─')}"))
        if self.next:
            text = Text(f"\n{sanitize(prompt)}", style="dim")
            parts.append(text.append(sanitize("".join(self.pieces)), style="bold not dim"))
        return parts


class Compare(ModalScreen[None]):
    """Enter runs the prompt. A separate process keeps the model in memory, so the next prompt is answered at once."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "leave", "back", priority=True),
        Binding("q,backspace", "leave", "back"),
        Binding("enter", "ask", "run", priority=True),
        Binding("tab", "app.focus_next", "next", show=False),
    ]

    def __init__(self, catalog: Catalog, model: str, one: str, other: str, prompt: str) -> None:
        super().__init__()
        self.catalog, self.model = catalog, model
        self.sides = [_Side(id, self._message(id)) for id in (one, other)]
        self._prompt = prompt
        self._is_running = False
        self.state = ""

    def _message(self, id: str) -> str:
        revision = load_row(self.catalog, REVISION, id)
        return revision.message if isinstance(revision, RevisionDetail) else ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(Text(f"Compare revisions of {sanitize(self.model)}", style="bold"))
            with Horizontal(classes="field"):
                yield Label("prompt", markup=False)
                hint = "Prompt to compare"
                line = Input(sanitize(self._prompt), id="prompt", compact=True, placeholder=hint)
                line.cursor_blink = False
                yield line
            yield Static(id="state", markup=False)
            with Horizontal(id="sides"):
                yield Detail()
                yield Detail()
            yield Static(Text("Enter runs the prompt · Tab to the answers · q or Esc goes back", style="dim"))

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._draw()

    @property
    def cli_equivalent(self) -> str:
        """The equivalent command."""
        one, other = self.sides
        prompt = self.query_one(Input).value
        return command("ask", f"{self.model}@{one.revision}", prompt, "--against", other.revision)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_ask(self) -> None:
        prompt = self.query_one(Input).value
        if self._is_running or not prompt.strip():
            return
        self._is_running = True
        for side in self.sides:
            side.next, side.pieces = [], []
        self._show_message("… running")
        self._ask(prompt)

    @work(thread=True, group="prompt", exit_on_error=False)
    def _ask(self, prompt: str) -> None:
        request = PromptRequest(prompt, [side.revision for side in self.sides])
        try:
            client: PromptClient = self.app.prompt_client(self.model)  # type: ignore[attr-defined]
            for reply in client.send(request):
                self.app.call_from_thread(self._on_reply, reply)
        except OSError as error:  # the process could not start
            self.app.call_from_thread(self._on_reply, {"error": str(error)})
        finally:
            self._is_running = False

    def _on_reply(self, reply: dict[str, Any]) -> None:
        side = next((side for side in self.sides if side.revision == reply.get("revision")), None)
        if side is not None and "next" in reply:
            side.next = [(str(token), float(probability)) for token, probability in reply["next"]]
        elif side is not None:
            side.pieces.append(str(reply["piece"]))
        elif "done" in reply:
            self._show_message(f"✓ answered in {reply['done']:.1f} s   $ {self.cli_equivalent}")
        elif "error" in reply:
            self._show_message(f"✗ {reply['error']}")
        else:
            self._show_message(f"… {reply.get('state', '')}")
        if self.is_attached:
            self._draw()

    def _show_message(self, text: str) -> None:
        self.state = text
        if self.is_attached:
            style = "bold red" if text.startswith("✗") else "dim"
            self.query_one("#state", Static).update(one_line(text, style))

    def _draw(self) -> None:
        prompt = self.query_one(Input).value
        for side, detail in zip(self.sides, self.query(Detail), strict=True):
            detail.show(side.parts(prompt))
