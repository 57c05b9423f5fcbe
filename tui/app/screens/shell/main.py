"""The main screen: tabs and six panes; running jobs at the top, the equivalent command at the bottom."""

import gc
import importlib
import shlex
from dataclasses import replace
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import ContentSwitcher, Static
from textual.worker import Worker

from .....store.catalog.catalog import Catalog
from .....store.errors import CatalogError, InputError
from ....actions.damage import READ_ERRORS
from ....cli_equivalent import command
from ....command_table import reads_only
from ....deep_links import NOUNS, DeepLink
from ....presentation.format import format_path, plural
from ....presentation.text import sanitize_lines
from ...data.jobs import JobRow
from ...data.models import find_model_id
from ...data.rows import Key
from ...widgets.bars import CommandLine, KeyHints, TabBar
from ...widgets.rows import Rows
from ..base.pane import ActionRefused, ModelSelected, Pane, RunAction, ShowCommand
from .job_status import JobStatus, resume_question
from .typing import READ_ONLY, TypingScreen

_POLL_SECONDS = 0.2
_POLLS_PER_REAP = 25
# Time that an error stays on the screen. The log of commands keeps it.
_ERROR_SECONDS = 15
# The first screen is painted by then.
_PAINTED_SECONDS = 0.1


class MainScreen(TypingScreen):
    """Polls the version of the catalog. If it changed, the panes read the catalog again."""

    heading = "Everywhere"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(index), f"tab('{name}')", name, show=False, tooltip="the tabs")
            for index, name in enumerate(NOUNS, 1)
        ),
        Binding("left_square_bracket", "turn(-1)", "previous tab", show=False),
        Binding("right_square_bracket", "turn(1)", "next tab", show=False),
        Binding(
            "slash", "filter", "filter", key_display="/",
            tooltip="filter the rows: rome, !rome, ~regex, field:word, field:>5",
        ),
        Binding(
            "colon", "command", "command", key_display=":", show=False,
            tooltip="a command, as after `retcon` in a shell",
        ),
        Binding("q", "back(True)", "back/quit", tooltip="one step back; from a list, quit (jobs keep running)"),
        Binding("escape,backspace", "back(False)", "back", show=False),
        Binding("y", "copy_key", "copy its name", tooltip="copy the name or number of this row", show=False),
        Binding("Y", "copy_command", "copy", tooltip="copy the command shown after $", show=False),
        Binding("at", "commands", "commands", tooltip="the commands of this session", key_display="@", show=False),
        Binding(
            "R", "resume_interrupted", "resume", show=False,
            tooltip="resume all interrupted jobs from their checkpoints",
        ),
        Binding("plus", "grow", "grow", key_display="+", tooltip="list and detail, or one of them alone", show=False),
        Binding("question_mark", "help", "help", key_display="?", tooltip="these keys"),
    ]  # fmt: skip

    def __init__(self, catalog: Catalog, link: DeepLink | None = None, *, readonly: bool = False) -> None:
        super().__init__(catalog, readonly=readonly)
        self._link = link
        self._version: int | None = None
        self._polls = 0
        self._reaper: Worker[None] | None = None
        self._model: str | None = None
        # Panes that must read the catalog again when they are next visible.
        self._outdated = set(NOUNS)

    def compose(self) -> ComposeResult:
        with Horizontal(id="status"):
            suffix = " · read-only" if self.readonly else ""
            yield Static(Text(f" retcon  {format_path(self.catalog.home.root)}{suffix}"), id="home")
            yield JobStatus(self.catalog, "running")
        yield TabBar(list(NOUNS))
        first = self._link.noun if self._link is not None else NOUNS[0]
        with ContentSwitcher(initial=first):
            yield self._make_pane(first)
        yield CommandLine()
        yield KeyHints()

    async def on_mount(self) -> None:
        self.query_one(TabBar).show(self.pane.id or "")
        if self._link is not None:
            await self.go_to(self._link)
        self._poll()
        self.pane.take_focus()
        self.set_timer(_PAINTED_SECONDS, self._after_first_paint)

    async def _after_first_paint(self) -> None:
        """Make the other panes, mark jobs of dead processes as interrupted, and start to poll."""
        gc.enable()
        gc.freeze()
        for name in NOUNS:
            await self._ensure_pane(name)
        self._start_reap()
        self.set_interval(_POLL_SECONDS, self._poll)

    def _make_pane(self, name: str) -> Pane:
        """The pane of a noun. All but the first are imported after the first paint."""
        module = importlib.import_module(f"..{name}.pane", __package__)
        pane: Pane = getattr(module, f"{name.title()}Pane")(self.catalog, name)
        pane.readonly, pane.model = self.readonly, self._model
        return pane

    async def _ensure_pane(self, name: str) -> None:
        if not self.query(f"#{name}"):
            await self.query_one(ContentSwitcher).add_content(self._make_pane(name))

    @property
    def pane(self) -> Pane:
        """The visible pane."""
        return self.query_one(f"#{self.query_one(ContentSwitcher).current}", Pane)

    # -- polling

    def _poll(self) -> None:
        """Read the version of the catalog. If it changed, read the displayed rows again."""
        self._polls += 1
        if self._polls % _POLLS_PER_REAP == 0:
            self._start_reap()
        try:
            version = self.catalog.data_version()
            if version != self._version:
                self._version = version
                self._outdated = set(NOUNS)
                for job in self.query_one(JobStatus).read():
                    self._announce_end(job)
                self._reload_pane()
            self.pane.tick()
        except CatalogError as error:
            self.show_error(str(error))

    def _reload_pane(self) -> None:
        """Let the visible pane read the catalog if it is outdated."""
        pane = self.pane
        if pane.id in self._outdated:
            self._outdated.discard(pane.id)
            pane.reload()

    def _announce_end(self, job: JobRow) -> None:
        """A message, a bell and a desktop notice; in other tabs also a badge on the jobs tab."""
        from ..jobs.text import STATES
        from .terminal import notice_sequence

        symbol, _ = STATES[job.state]
        summary = f"job {job.id} {job.state}: {job.kind} {job.about}"
        text = f"{symbol} {summary}" + (f"\n{job.error}" if job.error else "")
        is_bad = job.state in ("failed", "interrupted")
        self.notify(sanitize_lines(text), severity="error" if is_bad else "information", markup=False)
        self.app.bell()
        self.app.send_escape(notice_sequence(summary))  # type: ignore[attr-defined]
        if self.pane.id != "jobs":
            self.query_one(TabBar).count("jobs")

    def _start_reap(self) -> None:
        """Mark jobs of dead processes as interrupted; the next poll shows the change."""
        is_reaping = self._reaper is not None and not self._reaper.is_finished
        if not self.readonly and not is_reaping and self.query_one(JobStatus).has_active:
            self._reaper = self._reap()

    @work(thread=True, group="reap", exit_on_error=False)
    def _reap(self) -> None:
        from .....engine.jobs.reap import reap

        try:
            reap(self.catalog)
        except CatalogError as error:
            self.app.call_from_thread(self.show_error, str(error))

    # -- messages of panes

    @on(RunAction)
    def _on_run_action(self, event: RunAction) -> None:
        self._update_detail()
        if self.readonly and not reads_only(shlex.split(event.cli_equivalent)[1:]):
            self.show_error(READ_ONLY)
            return
        self.query_one(CommandLine).show(event.cli_equivalent, "…")
        self._act(event)

    @work(thread=True, group="verbs", exit_on_error=False)
    def _act(self, event: RunAction) -> None:
        try:
            outcome, has_failed = event.act(), False
        except (InputError, CatalogError, OSError, *READ_ERRORS) as error:
            outcome, has_failed = str(error), True
        self.app.call_from_thread(self._show_outcome, event.cli_equivalent, outcome, has_failed)

    def _show_outcome(self, cli_equivalent: str, outcome: str, has_failed: bool) -> None:
        self.commands.append((cli_equivalent, f"✗ {outcome}" if has_failed else outcome))
        if has_failed:
            self.show_error(outcome, cli_equivalent)
        else:
            self.query_one(CommandLine).show(cli_equivalent, f"✓ {outcome}", "bold")

    @on(ActionRefused)
    def _on_action_refused(self, event: ActionRefused) -> None:
        self.refuse(event.reason)

    def refuse(self, reason: str) -> None:
        """Show why an action is not possible."""
        self._update_detail()
        self.show_error(reason)

    def _update_detail(self) -> None:
        """Update the detail now: its command must not later replace the message of an action."""
        if self.pane.is_detail_behind:
            self.pane.update_detail(show_command=False)

    def show_error(self, sentence: str, cli_equivalent: str = "") -> None:
        line = self.query_one(CommandLine)
        if line.cli_equivalent == cli_equivalent and line.outcome == f"✗ {sentence}":
            return
        line.show(cli_equivalent, f"✗ {sentence}", "bold red")
        if not cli_equivalent:
            self.commands.append(("", f"✗ {sentence}"))
        self.notify(sanitize_lines(sentence), severity="error", markup=False, timeout=_ERROR_SECONDS)

    @on(ShowCommand)
    def _on_show_command(self, event: ShowCommand) -> None:
        line = self.query_one(CommandLine)
        # The outcome of an action stays until the user moves on, even if the list changes under the cursor.
        if event.by_hand or not line.outcome:
            line.show(event.cli_equivalent)

    @on(Rows.Failed)
    def _on_rows_failed(self, event: Rows.Failed) -> None:
        self.show_error(event.reason)

    @on(ModelSelected)
    def _on_model_selected(self, event: ModelSelected) -> None:
        self._select_model(event.model)

    def _select_model(self, model: str) -> None:
        self._model = model
        for pane in self.query(Pane):
            if pane.model != model:
                pane.model = model
                self._outdated.add(pane.id or "")
        self._reload_pane()

    @on(Rows.Changed)
    def _on_rows_changed(self, event: Rows.Changed) -> None:
        if event.rows is self.pane.rows:
            self.show_query_state()

    def show_query_state(self, error_text: str = "") -> None:
        source, bar = self.pane.rows.source, self.query_one(TabBar)
        if error_text:
            bar.note(f"✗ {error_text}")
            return
        words, parts = source.query.filter.strip(), []
        if words:
            parts.append(f"/{words}")
        if source.query.sort:
            parts.append(f"by {source.query.sort} {'↓' if source.query.descending else '↑'}")
        count = f"{len(source.keys):,}" + (f" of {source.total:,}" if words else "")
        marked = f" · {len(source.marked):,} marked" if source.marked else ""
        bar.note(" · ".join(parts), count + marked)

    # -- keys

    @on(TabBar.Chosen)
    async def _on_tab_chosen(self, event: TabBar.Chosen) -> None:
        await self.action_tab(event.name)

    async def action_tab(self, name: str) -> None:
        await self._ensure_pane(name)
        switcher = self.query_one(ContentSwitcher)
        if name != switcher.current:
            self.hide_prompt()
            switcher.current = name
            self.query_one(TabBar).show(name)
            self._reload_pane()
            self.pane.take_focus()
            self.pane.show_cli_equivalent()
            self.show_query_state()

    async def action_turn(self, by: int) -> None:
        names = list(NOUNS)
        await self.action_tab(names[(names.index(self.pane.id or "") + by) % len(names)])

    async def go_to(self, link: DeepLink) -> None:
        key: Key = int(link.key) if link.key.isdecimal() and link.noun != "edits" else link.key
        if link.noun == "models" and isinstance(key, str) and key:
            key = find_model_id(self.catalog, key) or key
        if link.noun == "edits" and link.key:
            from ...data.edits import load_model_name

            self._select_model(load_model_name(self.catalog, link.key) or link.key)
        await self.action_tab(link.noun)
        if link.key:
            self.pane.rows.select(key)

    def action_back(self, quit: bool) -> None:
        """One step back: close the detail, remove the marks, remove the filter, quit the app."""
        rows = self.pane.rows
        if self.pane.close() or rows.unmark():
            return
        if rows.source.query.filter:
            rows.set_query(replace(rows.source.query, filter=""))
        elif quit:
            self.app.exit()

    def action_grow(self) -> None:
        """Switch between list and detail, and only the focused one of them."""
        self.pane.toggle_class("-alone")

    def action_help(self) -> None:
        from ..base.detail_screen import DetailScreen
        from .help import describe_keys

        nodes: list[Any] = [self.pane, self.focused, self]
        if not isinstance(self.focused, Rows):
            nodes.insert(1, self.pane.rows)
        text = describe_keys([node for node in nodes if node is not None])
        self.app.push_screen(DetailScreen(lambda _: [text], "question_mark"))

    def action_commands(self) -> None:
        from ..base.detail_screen import DetailScreen
        from .command_log import describe_commands

        self.app.push_screen(DetailScreen(lambda _: [describe_commands(self.commands)], "at"))

    def action_resume_interrupted(self) -> None:
        if self.readonly:
            raise InputError(READ_ONLY)
        from ..base.confirm import Confirm

        catalog, question = self.catalog, resume_question(self.catalog)
        if question is None:
            raise InputError("there are no interrupted jobs")

        def resume() -> str:
            from .....engine.jobs import control

            return f"resumed {plural(len(control.resume_all(catalog)), 'job')}"

        def run(yes: bool | None) -> None:
            if yes:
                self._on_run_action(RunAction(cli_equivalent, resume))

        cli_equivalent = command("job", "resume", "--all")
        self.app.push_screen(Confirm(question, "Resume", cli_equivalent), run)

    def action_copy_command(self) -> None:
        self._copy(self.query_one(CommandLine).cli_equivalent)

    def action_copy_key(self) -> None:
        self._copy(self.pane.row_name())

    @work(thread=True, group="verbs", exit_on_error=False)
    def _copy(self, text: str) -> None:
        if not text:
            return
        from .terminal import copy

        line = self.query_one(CommandLine)
        file = self.catalog.home.root / "copied.txt"
        try:
            sentence = copy(
                text, lambda one: self.app.call_from_thread(self.app.copy_to_clipboard, one), file
            )
        except OSError as error:
            self.app.call_from_thread(self.show_error, f"not copied: {error}")
            return
        self.app.call_from_thread(line.show, line.cli_equivalent, f"✓ {sentence}", "bold")
