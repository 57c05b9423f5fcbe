"""The one screen: tabs and five panes; above, what runs; below, the command that does the same."""

from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer, Static

from ...store.catalog import Catalog
from ...store.errors import CatalogError, InputError
from ..clipboard import copy
from ..data.jobs import Alive, JobRow, alive_jobs, ended_jobs
from ..data.rows import UNREADABLE
from ..plain import plain_lines
from ..widgets.bars import CommandLine, TabBar
from ..widgets.rows import Rows
from .command_log import CommandLog
from .covariances import CovariancesPane
from .edits import EditsPane
from .help import Help
from .job_text import STATES
from .jobs import JobsPane
from .models import ModelsPane
from .pane import ModelChosen, Pane, Refused, Run, Showing
from .show import short_path
from .traces import TracesPane

PANES: dict[str, type[Pane]] = {
    "models": ModelsPane,
    "traces": TracesPane,
    "covariances": CovariancesPane,
    "edits": EditsPane,
    "jobs": JobsPane,
}
_POLL_SECONDS = 0.2
_POLLS_PER_REAP = 25


class MainScreen(Screen[None]):
    """Polls the catalog's version and has the panes read it anew when it changed; nothing moves otherwise."""

    heading = "Everywhere"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - Textual's own annotation
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(index), f"tab('{name}')", name, show=False, tooltip="the tabs")
            for index, name in enumerate(PANES, 1)
        ),
        Binding("left_square_bracket", "turn(-1)", "tab before", show=False),
        Binding("right_square_bracket", "turn(1)", "next tab", show=False),
        Binding("q", "back(True)", "back/quit", tooltip="one step back; from a list, quit (jobs go on)"),
        Binding("escape,backspace", "back(False)", "back", show=False),
        Binding("Y", "copy_twin", "copy", tooltip="copy the command of the $ line", show=False),
        Binding(
            "at", "commands", "commands", tooltip="the commands of this session", key_display="@", show=False
        ),
        Binding("question_mark", "help", "help", key_display="?", tooltip="these keys"),
    ]

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.catalog = catalog
        self.commands: list[tuple[str, str]] = []
        self._version: int | None = None
        self._alive: Alive | None = None
        self._polls = 0
        self._stale = set(PANES)

    def compose(self) -> ComposeResult:
        with Horizontal(id="status"):
            yield Static(Text(f" retcon  {short_path(self.catalog.home.root)}"), id="home")
            yield Static(id="running")
        yield TabBar(list(PANES))
        with ContentSwitcher(initial="models"):
            for name, pane in PANES.items():
                yield pane(self.catalog, name)
        yield CommandLine()
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self._poll()
        self.pane.take_focus()
        self._reap()
        self.set_interval(_POLL_SECONDS, self._poll)

    @property
    def pane(self) -> Pane:
        """The pane that is shown."""
        return self.query_one(f"#{self.query_one(ContentSwitcher).current}", Pane)

    # -- what changes by itself

    def _poll(self) -> None:
        """One look at the catalog's version; everything else only if that changed."""
        self._polls += 1
        if self._polls % _POLLS_PER_REAP == 0:
            self._reap()
        try:
            version = self.catalog.data_version()
            if version != self._version:
                self._version = version
                self._stale = set(PANES)
                self._show_jobs()
                self._refresh()
            self.pane.tick()
        except CatalogError as error:
            self._show_error(str(error))

    def _refresh(self) -> None:
        """Have the shown pane read the catalog, unless it has what is newest."""
        pane = self.pane
        if pane.id in self._stale:
            self._stale.discard(pane.id)
            pane.reload()

    def _show_jobs(self) -> None:
        """How many run and wait; a word for each that has ended since the last look."""
        before, now = self._alive, alive_jobs(self.catalog)
        self._alive = now
        running, waiting = now.count("running"), now.count("queued", "waiting")
        parts = [f"▶ {running} running" if running else "", f"… {waiting} queued" if waiting else ""]
        text = " · ".join(part for part in parts if part) or "no job runs"
        self.query_one("#running", Static).update(Text(text + " ", style="bold" if now.jobs else "dim"))
        if before is not None:
            for job in ended_jobs(self.catalog, [id for id, _ in before.jobs], before.newest):
                if isinstance(job, JobRow):
                    self._tell_end(job)

    def _tell_end(self, job: JobRow) -> None:
        symbol, _ = STATES[job.state]
        text = f"{symbol} job {job.id} {job.state}: {job.kind} {job.about}"
        if job.error:
            text += f"\n{job.error}"
        bad = job.state in ("failed", "interrupted")
        self.notify(plain_lines(text), severity="error" if bad else "information", markup=False)
        self.app.bell()

    @work(thread=True, exclusive=True, group="reap", exit_on_error=False)
    def _reap(self) -> None:
        """Jobs whose process is gone become interrupted; what that changes is seen at the next poll."""
        if self._alive is not None and not self._alive.jobs:
            return
        from ...engine import jobs

        try:
            jobs.reap(self.catalog)
        except CatalogError as error:
            self.app.call_from_thread(self._show_error, str(error))

    # -- what panes ask for

    @on(Run)
    def _run_verb(self, event: Run) -> None:
        event.stop()
        self._settle()
        self.query_one(CommandLine).show(event.twin, "…")
        self._act(event)

    @work(thread=True, group="verbs", exit_on_error=False)
    def _act(self, event: Run) -> None:
        try:
            outcome, failed = event.act(), False
        except (InputError, CatalogError, OSError, *UNREADABLE) as error:
            outcome, failed = str(error), True
        self.app.call_from_thread(self._acted, event.twin, outcome, failed)

    def _acted(self, twin: str, outcome: str, failed: bool) -> None:
        self.commands.append((twin, f"✗ {outcome}" if failed else outcome))
        if failed:
            self._show_error(outcome, twin)
        else:
            self.query_one(CommandLine).show(twin, f"✓ {outcome}", "bold")

    @on(Refused)
    def _refused(self, event: Refused) -> None:
        event.stop()
        self._settle()
        self._show_error(event.reason)

    def _settle(self) -> None:
        """What a verb has to say must not be written over by the command of the row that it was pressed on."""
        if self.pane.resting:
            self.pane.settle(tell=False)

    def _show_error(self, sentence: str, twin: str = "") -> None:
        line = self.query_one(CommandLine)
        if line.twin == twin and line.outcome == f"✗ {sentence}":
            return
        line.show(twin, f"✗ {sentence}", "bold red")
        self.notify(plain_lines(sentence), severity="error", markup=False)

    @on(Showing)
    def _showing(self, event: Showing) -> None:
        event.stop()
        self.query_one(CommandLine).show(event.twin)

    @on(Rows.Failed)
    def _list_failed(self, event: Rows.Failed) -> None:
        event.stop()
        self._show_error(event.reason)

    @on(ModelChosen)
    def _model_chosen(self, event: ModelChosen) -> None:
        event.stop()
        for pane in self.query(Pane):
            if pane.model != event.model:
                pane.model = event.model
                self._stale.add(pane.id or "")
        self._refresh()

    # -- keys

    @on(TabBar.Chosen)
    def _tab_chosen(self, event: TabBar.Chosen) -> None:
        self.action_tab(event.name)

    def action_tab(self, name: str) -> None:
        switcher = self.query_one(ContentSwitcher)
        if name != switcher.current:
            switcher.current = name
            self.query_one(TabBar).show(name)
            self._refresh()
            self.pane.take_focus()
            self.pane.tell_twin()

    def action_turn(self, by: int) -> None:
        names = list(PANES)
        self.action_tab(names[(names.index(self.pane.id or "") + by) % len(names)])

    def action_back(self, quit: bool) -> None:
        if not self.pane.close() and quit:
            self.app.exit()

    def action_help(self) -> None:
        detail: list[Any] = [self.pane, self.focused, self]
        self.app.push_screen(Help([node for node in detail if node is not None]))

    def action_commands(self) -> None:
        self.app.push_screen(CommandLog(self.commands))

    @work(thread=True, group="verbs", exit_on_error=False)
    def action_copy_twin(self) -> None:
        twin = self.query_one(CommandLine).twin
        if twin:
            way = copy(twin, lambda text: self.app.call_from_thread(self.app.copy_to_clipboard, text))
            self.app.call_from_thread(self.query_one(CommandLine).show, twin, f"✓ {way}", "bold")
