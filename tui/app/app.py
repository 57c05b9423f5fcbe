"""The app: `retcon` without arguments. It shows the catalog and submits jobs; it never imports torch."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.command import Provider

from ...store.catalog.catalog import Catalog
from ..deep_links import DeepLink
from ..presentation.encoding import install_ascii_fallback
from .screens.shell.main import MainScreen

if TYPE_CHECKING:
    from ...engine.jobs.prompting.client import PromptClient


def _palette() -> type[Provider]:
    from .palette import Keys

    return Keys


class RetconApp(App[None]):
    """The terminal app on one catalog. All that one sees is on `MainScreen`."""

    CSS_PATH = "app.tcss"
    TITLE = "retcon"
    # One layout in two shapes, for 80 columns and from 100 on; columns of lists come with the width they have.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - Textual's own annotation
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_palette}

    def __init__(self, catalog: Catalog, link: DeepLink | None = None, *, readonly: bool = False) -> None:
        super().__init__()
        self.catalog = catalog
        self.link = link
        self.readonly = readonly
        # The process that keeps a model in memory for questions, once one was asked.
        self._warm: PromptClient | None = None
        # Over SSH each frame costs, and an app that is looked at for hours must be silent when nothing happens.
        self.animation_level = "none"
        # The user's own sixteen colors: half the bytes, right on light and dark, and NO_COLOR is really none.
        self.theme = "ansi-dark"

    def on_mount(self) -> None:
        self.push_screen(MainScreen(self.catalog, self.link, readonly=self.readonly))

    def warm(self, model: str) -> "PromptClient":
        """The process that keeps this model in memory; one of another model makes room for it. From a thread."""
        if self._warm is not None and (self._warm.model != model or not self._warm.is_alive):
            self._warm.close()
            self._warm = None
        if self._warm is None:
            from ...engine.jobs.prompting.client import PromptClient

            self._warm = PromptClient(self.catalog.home, model)
        return self._warm

    def on_unmount(self) -> None:
        if self._warm is not None:
            self._warm.close()

    def send_escape(self, sequence: str) -> None:
        """Send an escape sequence that draws nothing."""
        if self._driver is not None and not self.is_headless:
            self._driver.write(sequence)


def run(link: DeepLink | None = None, *, readonly: bool = False, mouse: bool = True) -> None:
    """Open the app on the user's catalog. Exits with 2 where there is no terminal to draw on."""
    install_ascii_fallback()
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    # In a browser there is no terminal either, and none is needed: textual-serve draws.
    served = "TEXTUAL_DRIVER" in os.environ
    if not served and (dumb or not (sys.stdin.isatty() and sys.stdout.isatty())):
        where = "TERM is dumb or unset" if dumb else "input or output is no terminal"
        command = f"retcon {_LIST_COMMANDS[link.noun]}" if link is not None else "retcon --help"
        print(
            f"Error: the app needs a terminal to draw on ({where}): every action has a command, see `{command}`.",
            file=sys.stderr,
        )
        sys.exit(2)
    # A shell that exports its size would hold the app at that size for ever.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    catalog = Catalog.open(migrate=not readonly)
    try:
        RetconApp(catalog, link, readonly=readonly).run(mouse=mouse)
    finally:
        catalog.close()


# What lists the same without the app.
_LIST_COMMANDS = {
    "models": "model list",
    "traces": "trace list",
    "covariances": "covariance list",
    "edits": "history MODEL",
    "jobs": "job list",
    "passages": "passage list",
}
