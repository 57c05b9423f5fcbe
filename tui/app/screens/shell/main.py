"""The one screen: tabs and six panes; above, what runs; below, the command that does the same."""

import gc
import importlib
from dataclasses import replace
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import ContentSwitcher, Static

from .....store.catalog.catalog import Catalog
from .....store.errors import CatalogError, InputError
from ....actions.damage import READ_ERRORS
from ....cli_equivalent import command
from ....deep_links import NOUNS, DeepLink
from ....presentation.format import format_path, plural
from ....presentation.text import sanitize_lines
from ...data.jobs import ActiveJobs, JobRow, load_active_jobs, load_ended_jobs, load_interrupted_jobs
from ...data.models import find_model_id
from ...data.rows import Key
from ...widgets.bars import CommandLine, KeyHints, TabBar
from ...widgets.rows import Rows
from ..base.pane import ActionRefused, ModelSelected, Pane, RunAction, ShowCommand
from .typing import READ_ONLY, TypingScreen

# Jobs that a question names; of more only how many.
_NAMED = 3
# noun -> the class of its pane, in the module of that name. All but the first are imported after the first paint.
_CLASSES = dict(
    zip(
        NOUNS,
        ("ModelsPane", "TracesPane", "CovariancesPane", "EditsPane", "JobsPane", "PassagesPane"),
        strict=True,
    )
)
_POLL_SECONDS = 0.2
# An error stays in sight that long, and in the log of commands for good.
_ERROR_SECONDS = 15
_POLLS_PER_REAP = 25
# By then the first screen is painted.
_PAINTED_SECONDS = 0.1


class MainScreen(TypingScreen):
    """Polls the catalog's version and has the panes read it anew when it changed; nothing moves otherwise."""

    heading = "Everywhere"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(index), f"tab('{name}')", name, show=False, tooltip="the tabs")
            for index, name in enumerate(NOUNS, 1)
        ),
        Binding("left_square_bracket", "turn(-1)", "tab before", show=False),
        Binding("right_square_bracket", "turn(1)", "next tab", show=False),
        Binding(
            "slash", "filter", "filter", key_display="/",
            tooltip="show the rows that hold some words: rome, !rome, ~regex, field:word, field:>5",
        ),
        Binding(
            "colon", "command", "command", key_display=":", show=False,
            tooltip="a command, as after `retcon` in a shell",
        ),
        Binding("q", "back(True)", "back/quit", tooltip="one step back; from a list, quit (jobs go on)"),
        Binding("escape,backspace", "back(False)", "back", show=False),
        Binding("y", "copy_key", "copy its name", tooltip="copy the name or number of this row", show=False),
        Binding("Y", "copy_command", "copy", tooltip="copy the command of the $ line", show=False),
        Binding("at", "commands", "commands", tooltip="the commands of this session", key_display="@", show=False),
        Binding(
            "R", "resume_interrupted", "resume", show=False,
            tooltip="let all interrupted jobs go on from their checkpoints",
        ),
        Binding("plus", "grow", "grow", key_display="+", tooltip="list and detail, or one of them alone", show=False),
        Binding("question_mark", "help", "help", key_display="?", tooltip="these keys"),
    ]  # fmt: skip

    def __init__(self, catalog: Catalog, link: DeepLink | None = None, *, readonly: bool = False) -> None:
        super().__init__(catalog, readonly=readonly)
        self._link = link
        self._version: int | None = None
        self._active_jobs: ActiveJobs | None = None
        self._told_jobs = ""
        self._polls = 0
        self._model: str | None = None
        self._stale = set(NOUNS)

    def compose(self) -> ComposeResult:
        with Horizontal(id="status"):
            only = " · read only" if self.readonly else ""
            yield Static(Text(f" retcon  {format_path(self.catalog.home.root)}{only}"), id="home")
            yield Static(id="running")
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
        """What nobody waits for: the other panes, and jobs whose process died."""
        gc.enable()
        gc.freeze()
        for name in NOUNS:
            await self._have(name)
        self._reap()
        self.set_interval(_POLL_SECONDS, self._poll)

    def _make_pane(self, name: str) -> Pane:
        module = importlib.import_module(f"..{name}.pane", __package__)
        pane: Pane = getattr(module, _CLASSES[name])(self.catalog, name)
        pane.readonly, pane.model = self.readonly, self._model
        return pane

    async def _have(self, name: str) -> None:
        """Make a pane that is not there yet."""
        if not self.query(f"#{name}"):
            await self.query_one(ContentSwitcher).add_content(self._make_pane(name))

    @property
    def pane(self) -> Pane:
        """The pane that is shown."""
        return self.query_one(f"#{self.query_one(ContentSwitcher).current}", Pane)

    # -- what changes by itself

    def _poll(self) -> None:
        """One look at the catalog's version; everything else only if that changed."""
        self._polls += 1
        if self._polls % _POLLS_PER_REAP == 0 and self._active_jobs is not None and self._active_jobs.jobs:
            self._reap()
        try:
            version = self.catalog.data_version()
            if version != self._version:
                self._version = version
                self._stale = set(NOUNS)
                self._show_jobs()
                self._refresh()
            self.pane.tick()
        except CatalogError as error:
            self.show_error(str(error))

    def _refresh(self) -> None:
        """Have the shown pane read the catalog, unless it has what is newest."""
        pane = self.pane
        if pane.id in self._stale:
            self._stale.discard(pane.id)
            pane.reload()

    def _show_jobs(self) -> None:
        """How many run and wait; a word for each that has ended since the last look."""
        before, now = self._active_jobs, load_active_jobs(self.catalog)
        self._active_jobs = now
        running, waiting = now.count("running"), now.count("queued", "waiting")
        parts = [f"▶ {running} running" if running else "", f"… {waiting} queued" if waiting else ""]
        text = " · ".join(part for part in parts if part) or "no job runs"
        if now.interrupted:
            # Those that could go on are offered until they do, or are removed.
            text += f" · ! {now.interrupted} interrupted: R resumes"
        style = "bold" if now.jobs or now.interrupted else "dim"
        # The same words again would have the whole screen laid out anew, at every step of every job.
        if text != self._told_jobs:
            self._told_jobs = text
            self.query_one("#running", Static).update(Text(text + " ", style=style))
        # Read again only if one that ran is not there any more, or there are new ones.
        if before is not None and (before.newest != now.newest or {*before.jobs} - {*now.jobs}):
            for job in load_ended_jobs(self.catalog, [id for id, _ in before.jobs], before.newest):
                if isinstance(job, JobRow):
                    self._tell_end(job)

    def _tell_end(self, job: JobRow) -> None:
        """A word on the screen, a bell, a notice of the desktop; and a badge, unless one is looking at the jobs."""
        from ..jobs.text import STATES
        from .notices import notice

        symbol, _ = STATES[job.state]
        text = f"{symbol} job {job.id} {job.state}: {job.kind} {job.about}"
        if job.error:
            text += f"\n{job.error}"
        bad = job.state in ("failed", "interrupted")
        self.notify(sanitize_lines(text), severity="error" if bad else "information", markup=False)
        self.app.bell()
        self.app.send_escape(notice(f"job {job.id} {job.state}: {job.kind} {job.about}"))  # type: ignore[attr-defined]
        if self.pane.id != "jobs":
            self.query_one(TabBar).count("jobs")

    @work(thread=True, exclusive=True, group="reap", exit_on_error=False)
    def _reap(self) -> None:
        """Jobs whose process is gone become interrupted; what that changes is seen at the next poll."""
        if self.readonly or self._active_jobs is None or not self._active_jobs.jobs:
            return
        from .....engine.jobs.reap import reap

        try:
            reap(self.catalog)
        except CatalogError as error:
            self.app.call_from_thread(self.show_error, str(error))

    # -- what panes ask for

    @on(RunAction)
    def _run_verb(self, event: RunAction) -> None:
        event.stop()
        self._update_detail()
        if self.readonly:
            self.show_error(READ_ONLY)
            return
        self.query_one(CommandLine).show(event.cli_equivalent, "…")
        self._act(event)

    @work(thread=True, group="verbs", exit_on_error=False)
    def _act(self, event: RunAction) -> None:
        try:
            outcome, failed = event.act(), False
        except (InputError, CatalogError, OSError, *READ_ERRORS) as error:
            outcome, failed = str(error), True
        self.app.call_from_thread(self._acted, event.cli_equivalent, outcome, failed)

    def _acted(self, cli_equivalent: str, outcome: str, failed: bool) -> None:
        self.commands.append((cli_equivalent, f"✗ {outcome}" if failed else outcome))
        if failed:
            self.show_error(outcome, cli_equivalent)
        else:
            self.query_one(CommandLine).show(cli_equivalent, f"✓ {outcome}", "bold")

    @on(ActionRefused)
    def _refused(self, event: ActionRefused) -> None:
        event.stop()
        self._update_detail()
        self.show_error(event.reason)

    def _update_detail(self) -> None:
        """What a verb has to say must not be written over by the command of the row that it was pressed on."""
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
    def _showing(self, event: ShowCommand) -> None:
        event.stop()
        line = self.query_one(CommandLine)
        # What a verb had to say stays until the user moves on, also when the list went on under the cursor by itself.
        if event.by_hand or not line.outcome:
            line.show(event.cli_equivalent)

    @on(Rows.Failed)
    def _list_failed(self, event: Rows.Failed) -> None:
        event.stop()
        self.show_error(event.reason)

    @on(ModelSelected)
    def _model_chosen(self, event: ModelSelected) -> None:
        event.stop()
        self._model = event.model
        for pane in self.query(Pane):
            if pane.model != event.model:
                pane.model = event.model
                self._stale.add(pane.id or "")
        self._refresh()

    @on(Rows.Changed)
    def _rows_changed(self, event: Rows.Changed) -> None:
        event.stop()
        if event.rows is self.pane.rows:
            self.show_query_state()

    def show_query_state(self, error_text: str = "") -> None:
        """Beside the tabs: the filter, the order, how many rows are left, how many are marked."""
        rows = self.pane.rows
        asked, parts = rows.row_query, []
        if asked.filter.strip():
            parts.append(f"/{asked.filter.strip()}")
        if asked.sort:
            parts.append(f"by {asked.sort} {'↓' if asked.descending else '↑'}")
        count = f"{len(rows.keys):,}" + (f" of {rows.total:,}" if asked.filter.strip() else "")
        marked = f" · {len(rows.marked):,} marked" if rows.marked else ""
        bar = self.query_one(TabBar)
        bar.note(f"✗ {error_text}") if error_text else bar.note(" · ".join(parts), count + marked)

    # -- keys

    @on(TabBar.Chosen)
    async def _tab_chosen(self, event: TabBar.Chosen) -> None:
        await self.action_tab(event.name)

    async def action_tab(self, name: str) -> None:
        await self._have(name)
        switcher = self.query_one(ContentSwitcher)
        if name != switcher.current:
            self.hide_prompt()
            switcher.current = name
            self.query_one(TabBar).show(name)
            self._refresh()
            self.pane.take_focus()
            self.pane.show_cli_equivalent()
            self.show_query_state()

    async def action_turn(self, by: int) -> None:
        names = list(NOUNS)
        await self.action_tab(names[(names.index(self.pane.id or "") + by) % len(names)])

    async def go_to(self, link: DeepLink) -> None:
        """Show a pane, with the cursor on a row of it if one is named."""
        key: Key = int(link.key) if link.key.isdecimal() and link.noun != "edits" else link.key
        if link.noun == "models" and isinstance(key, str) and key:
            key = find_model_id(self.catalog, key) or key
        if link.noun == "edits" and link.key:
            from ...data.edits import load_model_name

            model = load_model_name(self.catalog, link.key) or link.key
            self._model_chosen(ModelSelected(model))
        await self.action_tab(link.noun)
        if link.key:
            self.pane.rows.select(key)

    def action_back(self, quit: bool) -> None:
        """One layer: out of the detail, off the marks, off the filter, out of the app."""
        rows = self.pane.rows
        if self.pane.close() or rows.unmark():
            return
        if rows.row_query.filter:
            rows.set_query(replace(rows.row_query, filter=""))
        elif quit:
            self.app.exit()

    def action_grow(self) -> None:
        self.pane.grow()

    def action_help(self) -> None:
        from .help import Help

        detail: list[Any] = [self.pane, self.focused, self]
        if isinstance(self.focused, Rows) is False:
            detail.insert(1, self.pane.rows)
        self.app.push_screen(Help([node for node in detail if node is not None]))

    def action_commands(self) -> None:
        from .command_log import CommandLog

        self.app.push_screen(CommandLog(self.commands))

    def action_resume_interrupted(self) -> None:
        if self.readonly:
            self.show_error(READ_ONLY)
            return
        from .confirm import Confirm

        catalog, count = self.catalog, load_active_jobs(self.catalog).interrupted
        if not count:
            self.show_error("no job was interrupted")
            return

        def resume() -> str:
            from .....engine.jobs import control

            return f"{plural(len(control.resume_all(catalog)), 'job')} went on"

        def go_on(yes: bool | None) -> None:
            if yes:
                self._run_verb(RunAction(cli_equivalent, resume))

        cli_equivalent = command("job", "resume", "--all")
        which = "\n".join(
            f"job {job.id}: {job.kind} {job.about}" for job in load_interrupted_jobs(catalog, _NAMED)
        )
        more = f"\n.. and {count - _NAMED} more" if count > _NAMED else ""
        question = f"Let {plural(count, 'interrupted job')} go on from the last checkpoint?\n{which}{more}"
        self.app.push_screen(Confirm(question, "Resume", cli_equivalent), go_on)

    def action_copy_command(self) -> None:
        self._copy(self.query_one(CommandLine).cli_equivalent)

    def action_copy_key(self) -> None:
        self._copy(self.pane.row_name())

    @work(thread=True, group="verbs", exit_on_error=False)
    def _copy(self, text: str) -> None:
        if not text:
            return
        from .clipboard import copy

        line = self.query_one(CommandLine)
        file = self.catalog.home.root / "copied.txt"
        try:
            way = copy(text, lambda one: self.app.call_from_thread(self.app.copy_to_clipboard, one), file)
        except OSError as error:
            self.app.call_from_thread(self.show_error, f"not copied: {error}")
            return
        self.app.call_from_thread(line.show, line.cli_equivalent, f"✓ {way}", "bold")
