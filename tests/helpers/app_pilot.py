"""Driving the app in tests: open it on a catalog, press keys, wait for what shall be seen."""

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
from retcon.tui.deep_links import parse_place

NARROW, MIDDLE, WIDE = (80, 24), (100, 30), (140, 40)
_TRIES = 100


@dataclass
class Driven:
    """The running app and its pilot."""

    app: RetconApp
    pilot: Pilot[None]

    async def press(self, *keys: str) -> None:
        """Press keys and let all that they start settle."""
        for key in keys:
            await self.pilot.press(key)
        await self.settle()

    async def settle(self) -> None:
        """Wait for what threads bring, and for the detail of the row that the cursor came to."""
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()
        if self.pane.resting:
            self.pane.settle()
            await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Type into the line that has the focus."""
        line = self.app.focused
        assert isinstance(line, Input)
        line.value = text
        await self.pilot.pause()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that another thread or connection brings about."""
        for _ in range(_TRIES):
            if condition():
                return
            await self.pilot.pause(0.05)
        raise AssertionError(f"it never came to this; the screen was:\n{self.screen}")

    @property
    def pane(self) -> Pane:
        """The pane that is shown."""
        screen = self.app.screen_stack[1]
        return screen.query_one(f"#{screen.query_one(ContentSwitcher).current}", Pane)

    @property
    def detail(self) -> str:
        """The text of the detail, or of the heat map."""
        assert isinstance(self.pane.detail, Detail | HeatMap)
        return self.pane.detail.text

    @property
    def list(self) -> list[str]:
        """The rows of the list as they are drawn, also those that are scrolled out of sight."""
        rows = self.pane.rows
        return [rows.text_of(index) for index in range(len(rows.keys))]

    @property
    def line(self) -> str:
        """The command line at the bottom."""
        return self.app.screen_stack[1].query_one(CommandLine).render().plain

    @property
    def screen(self) -> str:
        """All that is seen, as text."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    @property
    def verdict(self) -> str:
        """What a form says of its values: the command, or what is wrong."""
        return str(self.app.screen.query_one("#verdict", Static).content)

    @property
    def words(self) -> str:
        """The screen without its boxes and line ends: for sentences that were wrapped."""
        return " ".join(self.screen.translate(str.maketrans("│╭╮╰╯─", "      ")).split())


@asynccontextmanager
async def opened(
    catalog: Catalog,
    size: tuple[int, int] = NARROW,
    *,
    toasts: bool = False,
    place: str | None = None,
    readonly: bool = False,
) -> AsyncIterator[Driven]:
    """The app on a catalog, settled."""
    app = RetconApp(catalog, parse_place(place) if place else None, readonly=readonly)
    async with app.run_test(size=size, notifications=toasts) as pilot:
        await app.workers.wait_for_complete()
        await pilot.pause()
        yield Driven(app, pilot)
