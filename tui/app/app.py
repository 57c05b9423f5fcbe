"""The terminal app (`retcon` without arguments): shows the catalog and submits jobs. It never imports torch."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.command import Provider

from ...store.catalog.catalog import Catalog
from ...store.errors import CatalogError, InputError
from ..deep_links import DeepLink
from ..presentation.encoding import install_ascii_fallback
from .screens.shell.main import MainScreen

if TYPE_CHECKING:
    from ...engine.jobs.prompting.client import PromptClient


def _palette() -> type[Provider]:
    from .palette import Keys

    return Keys


class RetconApp(App[None]):
    """The terminal app on one catalog; `MainScreen` holds its content."""

    CSS_PATH = "app.tcss"
    TITLE = "retcon"
    # Two layouts: for 80 columns, and from 100 columns on. Lists drop columns that do not fit.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - Textual's own annotation
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_palette}

    def __init__(self, catalog: Catalog, link: DeepLink | None = None, *, readonly: bool = False) -> None:
        super().__init__()
        self.catalog = catalog
        self.link = link
        self.readonly = readonly
        # The process that keeps a model in memory after the first prompt.
        self._prompt_client: PromptClient | None = None
        # Over SSH each frame costs, so the app sends nothing while nothing changes.
        self.animation_level = "none"
        # The sixteen colors of the user's terminal: half the bytes, correct on light and dark, none under NO_COLOR.
        self.theme = "ansi-dark"

    def on_mount(self) -> None:
        self.push_screen(MainScreen(self.catalog, self.link, readonly=self.readonly))

    async def run_action(self, *args: Any, **kwargs: Any) -> bool:
        """Run an action. If it raises InputError or CatalogError, the main screen shows the reason."""
        try:
            return await super().run_action(*args, **kwargs)
        except (InputError, CatalogError) as error:
            if not isinstance(self.screen, MainScreen):
                raise
            self.screen.refuse(str(error))
            return True

    def prompt_client(self, model: str) -> "PromptClient":
        """The process that keeps this model in memory; replaces that of another model. Call it from a thread."""
        if self._prompt_client is not None and (
            self._prompt_client.model != model or not self._prompt_client.is_alive
        ):
            self._prompt_client.close()
            self._prompt_client = None
        if self._prompt_client is None:
            from ...engine.jobs.prompting.client import PromptClient

            self._prompt_client = PromptClient(self.catalog.home, model)
        return self._prompt_client

    def on_unmount(self) -> None:
        if self._prompt_client is not None:
            self._prompt_client.close()

    def send_escape(self, sequence: str) -> None:
        """Send an escape sequence that draws nothing to the terminal."""
        if self._driver is not None and not self.is_headless:
            self._driver.write(sequence)


def run(link: DeepLink | None = None, *, readonly: bool = False, mouse: bool = True) -> None:
    """Open the app on the user's catalog. Exits with 2 without a terminal to draw on."""
    install_ascii_fallback()
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    # textual-serve draws in the browser, so no terminal is needed.
    served = "TEXTUAL_DRIVER" in os.environ
    if not served and (dumb or not (sys.stdin.isatty() and sys.stdout.isatty())):
        where = "TERM is dumb or unset" if dumb else "input or output is not a terminal"
        command = f"retcon {_LIST_COMMANDS[link.noun]}" if link is not None else "retcon --help"
        print(
            f"Error: the app needs a terminal to draw on ({where}): every action has a command, see `{command}`.",
            file=sys.stderr,
        )
        sys.exit(2)
    # Exported by some shells; they would fix the app at that size.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    catalog = Catalog.open(migrate=not readonly)
    try:
        RetconApp(catalog, link, readonly=readonly).run(mouse=mouse)
    finally:
        catalog.close()


# The command that lists the same rows.
_LIST_COMMANDS = {
    "models": "model list",
    "traces": "trace list",
    "covariances": "covariance list",
    "edits": "history MODEL",
    "jobs": "job list",
    "passages": "passage list",
}
