"""The prompt on the last line of the screen: `/` filters the list, `:` takes a command or a deep link."""

import shlex
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.screen import Screen
from textual.timer import Timer

from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....command_table import COMMANDS, reads_only
from ....deep_links import NOUNS, DeepLink, parse_deep_link
from ...data.filters import parse
from ...widgets.bars import CommandLine
from ...widgets.prompt import Kind, Prompt
from ..base.pane import Pane

READ_ONLY = "the app is read-only (--readonly): nothing can be changed"
# The nouns of the command line, without `ui`: the app is open already.
COMMAND_WORDS = tuple(name for name in COMMANDS if name != "ui")
# Delay between a typed letter and the filtering of the list, so that typing never waits.
_FILTER_SECONDS = 0.15


def split(text: str) -> list[str]:
    """Split a line as a shell does, and remove a leading `retcon`.

    Raises:
        InputError: a quote is not closed, or the command starts the app, which is already running.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"not a valid command line: {error}") from error
    if words[:1] == ["retcon"]:
        words = words[1:]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if words[:1] == ["ui"] and "--help" not in words:
        raise InputError("the app is open already: type a tab, e.g. edits, or edits/4021943b39")
    return words


class TypingScreen(Screen[None]):
    """A screen with a `CommandLine` and a `Prompt` below panes with lists."""

    heading: ClassVar[str] = ""

    def __init__(self, catalog: Catalog, *, readonly: bool) -> None:
        super().__init__()
        self.catalog = catalog
        self.readonly = readonly
        # The commands of this session, each with its outcome.
        self.commands: list[tuple[str, str]] = []
        self._filter_timer: Timer | None = None
        self._previous_filter = ""

    @property
    def pane(self) -> Pane:
        """The visible pane."""
        raise NotImplementedError

    async def go_to(self, link: DeepLink) -> None:
        """Show a pane; if the link has a key, put the cursor on that row."""
        raise NotImplementedError

    def show_query_state(self, error_text: str = "") -> None:
        """Show the filter, the order and the number of rows, or the error of a filter."""
        raise NotImplementedError

    def show_error(self, sentence: str, cli_equivalent: str = "") -> None:
        """Show an error."""
        raise NotImplementedError

    async def action_filter(self) -> None:
        self._previous_filter = self.pane.rows.source.query.filter
        names = ", ".join(self.pane.listing.fields)
        await self._open_prompt(
            "/", self._previous_filter, f"word  !word  ~regex  field:word  field:>5   fields: {names}"
        )

    async def action_command(self) -> None:
        await self._open_prompt(
            ":", "", "as after `retcon` in a shell: trace list, job show 3; or a tab: jobs state:failed"
        )

    async def _open_prompt(self, kind: Kind, value: str, hint: str) -> None:
        words = (*NOUNS, *COMMAND_WORDS, "help", "quit") if kind == ":" else ()
        if not self.query(Prompt):
            await self.mount(Prompt(), after=self.query_one(CommandLine))
        self.query_one(CommandLine).display = False
        self.query_one(Prompt).open(kind, value, words, hint)

    def hide_prompt(self) -> None:
        """Show the command line instead of the prompt."""
        for prompt in self.query(Prompt):
            prompt.close()
        self.query_one(CommandLine).display = True

    def _close_prompt(self) -> None:
        self.hide_prompt()
        self.pane.take_focus()

    @on(Prompt.Typed)
    def _on_typed(self, event: Prompt.Typed) -> None:
        if event.kind == "/":
            if self._filter_timer is not None:
                self._filter_timer.stop()
            self._filter_timer = self.set_timer(_FILTER_SECONDS, lambda: self._apply_filter(event.text))

    def _apply_filter(self, text: str) -> bool:
        """Filter the list. An invalid filter changes nothing and shows its error; returns whether it is valid."""
        if self._filter_timer is not None:
            self._filter_timer.stop()
            self._filter_timer = None
        pane = self.pane
        try:
            parse(text, pane.listing.fields)
        except InputError as error:
            self.show_query_state(str(error))
            return False
        pane.rows.set_query(replace(pane.rows.source.query, filter=text))
        self.show_query_state()
        return True

    @on(Prompt.Cancelled)
    def _on_cancelled(self) -> None:
        if self.query_one(Prompt).kind == "/":
            self._apply_filter(self._previous_filter)
        self._close_prompt()

    @on(Prompt.Submitted)
    async def _on_submitted(self, event: Prompt.Submitted) -> None:
        if event.kind == "/":
            if self._apply_filter(event.text):
                self._close_prompt()
            return
        self._close_prompt()
        await self.run_line(event.text)

    async def run_line(self, text: str) -> None:
        """Run a line typed after `:`: a tab with a filter or a row, or a command of the command line."""
        try:
            words = split(text)
            if not words:
                return
            if words[0] in ("q", "quit"):
                self.app.exit()
                return
            link = parse_deep_link(words[0]) if words[0].partition("/")[0] in NOUNS else None
        except InputError as error:
            self.show_error(str(error))
            return
        if link is not None:
            await self.go_to(link)
            if len(words) > 1:
                self._apply_filter(text.strip().split(maxsplit=1)[1])
        elif self.readonly and not reads_only(words):
            self.show_error(READ_ONLY)
        else:
            self._run_command(words)

    def _run_command(self, words: list[str]) -> None:
        from .output import Output

        screen = Output(self.catalog.home, words)

        def record(outcome: str | None) -> None:
            self.commands.append((screen.cli_equivalent, outcome or ""))
            self.query_one(CommandLine).show(screen.cli_equivalent, outcome or "", "bold")

        self.app.push_screen(screen, record)
