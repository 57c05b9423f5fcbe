"""Drive the app in tests: open it on a catalog, press keys, wait for a screen."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from textual.pilot import Pilot
from textual.widgets import ContentSwitcher, Input, Static

from retcon.store.catalog.catalog import Catalog
from retcon.tui.app.app import RetconApp
from retcon.tui.app.screens.base.pane import Pane
from retcon.tui.app.widgets.bars import CommandLine
from retcon.tui.app.widgets.detail import Detail
from retcon.tui.app.widgets.heat_map import HeatMap
from retcon.tui.deep_links import parse_deep_link

NARROW, MIDDLE, WIDE = (80, 24), (100, 30), (140, 40)
_TRIES = 100


@dataclass
class AppPilot:
    """The running app, driven by keys."""

    app: RetconApp
    pilot: Pilot[None]

    async def press(self, *keys: str) -> None:
        """Press keys and wait until the app is idle."""
        for key in keys:
            await self.pilot.press(key)
        await self.settle()

    async def settle(self) -> None:
        """Wait for threads, and for the detail of the row under the cursor."""
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()
        if self.pane.is_detail_behind:
            self.pane.update_detail()
            await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Type into the focused input."""
        line = self.app.focused
        assert isinstance(line, Input)
        line.value = text
        await self.pilot.pause()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change that another thread or connection makes."""
        for _ in range(_TRIES):
            if condition():
                return
            await self.pilot.pause(0.05)
        raise AssertionError(f"the condition never became true; the screen was:\n{self.screen}")

    @property
    def pane(self) -> Pane:
        """The visible pane."""
        screen = self.app.screen_stack[1]
        return screen.query_one(f"#{screen.query_one(ContentSwitcher).current}", Pane)

    @property
    def detail(self) -> str:
        """The text of the detail, or of the heat map."""
        assert isinstance(self.pane.detail, Detail | HeatMap)
        return self.pane.detail.text

    @property
    def list(self) -> list[str]:
        """The rows of the list as drawn, including those out of view."""
        rows = self.pane.rows
        return [rows.text_of(index) for index in range(len(rows.keys))]

    @property
    def line(self) -> str:
        """The command line at the bottom."""
        return self.app.screen_stack[1].query_one(CommandLine).render().plain

    @property
    def screen(self) -> str:
        """The screen as text."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    @property
    def verdict(self) -> str:
        """The verdict of a form: the command, or an error."""
        return str(self.app.screen.query_one("#verdict", Static).content)

    @property
    def words(self) -> str:
        """The screen without box borders and line ends, to find wrapped sentences."""
        return " ".join(self.screen.translate(str.maketrans("│╭╮╰╯─", "      ")).split())


@asynccontextmanager
async def open_app(
    catalog: Catalog,
    size: tuple[int, int] = NARROW,
    *,
    toasts: bool = False,
    link: str | None = None,
    readonly: bool = False,
) -> AsyncIterator[AppPilot]:
    """Open the app on a catalog and wait until it is idle."""
    app = RetconApp(catalog, parse_deep_link(link) if link else None, readonly=readonly)
    async with app.run_test(size=size, notifications=toasts) as pilot:
        await app.workers.wait_for_complete()
        await pilot.pause()
        yield AppPilot(app, pilot)
