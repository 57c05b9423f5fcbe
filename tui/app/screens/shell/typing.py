"""What is typed on the screen's last line: `/` a filter of the list, `:` a command or a place."""

from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.screen import Screen
from textual.timer import Timer

from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....command_table import reads_only
from ....deep_links import NOUNS, DeepLink, parse_deep_link
from ...data.filters import parse
from ...widgets.bars import CommandLine
from ...widgets.prompt import Kind, Prompt
from ..base.pane import Pane
from .commands import command_words, split

READ_ONLY = "the app was opened to read only (--readonly): nothing is changed here"
# Who types a filter is not made to wait for the list at each letter.
_TYPED_SECONDS = 0.15


class TypingScreen(Screen[None]):
    """A screen with a `CommandLine` and a `Prompt`, over panes with lists."""

    heading: ClassVar[str] = ""

    def __init__(self, catalog: Catalog, *, readonly: bool) -> None:
        super().__init__()
        self.catalog = catalog
        self.readonly = readonly
        # The commands of this session, each with what came of it.
        self.commands: list[tuple[str, str]] = []
        self._typed: Timer | None = None
        self._before_filter = ""

    @property
    def pane(self) -> Pane:
        """The pane that is shown."""
        raise NotImplementedError

    async def go_to(self, link: DeepLink) -> None:
        """Show a pane, with the cursor on a row of it if one is named."""
        raise NotImplementedError

    def show_query_state(self, error_text: str = "") -> None:
        """Say which rows are shown, or what is wrong with what was asked."""
        raise NotImplementedError

    def show_error(self, sentence: str, cli_equivalent: str = "") -> None:
        """Say what went wrong, until it was read."""
        raise NotImplementedError

    async def action_filter(self) -> None:
        rows = self.pane.rows
        self._before_filter = rows.row_query.filter
        names = ", ".join(self.pane.listing.fields)
        await self._open_prompt(
            "/", self._before_filter, f"word  !word  ~regex  field:word  field:>5   fields: {names}"
        )

    async def action_command(self) -> None:
        await self._open_prompt(
            ":", "", "as after `retcon` in a shell: trace list, job show 3; or a tab: jobs state:failed"
        )

    async def _open_prompt(self, kind: Kind, value: str, hint: str) -> None:
        words = (*NOUNS, *command_words(), "help", "quit") if kind == ":" else ()
        if not self.query(Prompt):
            await self.mount(Prompt(), after=self.query_one(CommandLine))
        self.query_one(CommandLine).display = False
        self.query_one(Prompt).open(kind, value, words, hint)

    def hide_prompt(self) -> None:
        """Show the command line in its place."""
        for prompt in self.query(Prompt):
            prompt.close()
        self.query_one(CommandLine).display = True

    def _close_prompt(self) -> None:
        self.hide_prompt()
        self.pane.take_focus()

    @on(Prompt.Typed)
    def _prompt_typed(self, event: Prompt.Typed) -> None:
        event.stop()
        if event.kind == "/":
            if self._typed is not None:
                self._typed.stop()
            self._typed = self.set_timer(_TYPED_SECONDS, lambda: self._ask_for(event.text))

    def _ask_for(self, text: str) -> bool:
        """Filter the list; a filter that is none leaves it as it is, and says why."""
        if self._typed is not None:
            self._typed.stop()
            self._typed = None
        pane = self.pane
        try:
            parse(text, pane.listing.fields)
        except InputError as error:
            self.show_query_state(str(error))
            return False
        pane.rows.set_query(replace(pane.rows.row_query, filter=text))
        self.show_query_state()
        return True

    @on(Prompt.Cancelled)
    def _prompt_left(self, event: Prompt.Cancelled) -> None:
        event.stop()
        if self.query_one(Prompt).kind == "/":
            self._ask_for(self._before_filter)
        self._close_prompt()

    @on(Prompt.Submitted)
    async def _prompt_given(self, event: Prompt.Submitted) -> None:
        event.stop()
        if event.kind == "/":
            if self._ask_for(event.text):
                self._close_prompt()
            return
        self._close_prompt()
        await self.run_typed(event.text)

    async def run_typed(self, text: str) -> None:
        """What was typed after `:`: a tab, with a filter or a row, or a command of the command line."""
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
                self._ask_for(text.strip().split(maxsplit=1)[1])
        elif self.readonly and not reads_only(words):
            self.show_error(READ_ONLY)
        else:
            self._run_command(words)

    def _run_command(self, words: list[str]) -> None:
        from .output import Output

        screen = Output(self.catalog.home, words)

        def left(outcome: str | None) -> None:
            self.commands.append((screen.cli_equivalent, outcome or ""))
            self.query_one(CommandLine).show(screen.cli_equivalent, outcome or "", "bold")

        self.app.push_screen(screen, left)
