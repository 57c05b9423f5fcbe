"""The app: `retcon` without arguments. It shows the catalog and submits jobs; it never imports torch."""

import os
import sys

from textual.app import App

from ..store.catalog import Catalog
from .screens.main import MainScreen


class RetconApp(App[None]):
    """The terminal app on one catalog. All that one sees is on `MainScreen`."""

    CSS_PATH = "app.tcss"
    TITLE = "retcon"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.catalog = catalog
        # Over SSH each frame costs, and an app that is looked at for hours must be silent when nothing happens.
        self.animation_level = "none"
        # The user's own sixteen colours: half the bytes, right on light and dark, and NO_COLOR is really none.
        self.theme = "ansi-dark"

    def on_mount(self) -> None:
        self.push_screen(MainScreen(self.catalog))


def run() -> None:
    """Open the app on the user's catalog. Exits with 2 where there is no terminal to draw on."""
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    if dumb or not (sys.stdin.isatty() and sys.stdout.isatty()):
        where = "TERM is dumb or unset" if dumb else "input or output is no terminal"
        print(
            f"Error: the app needs a terminal to draw on ({where}): every action has a command, see `retcon --help`.",
            file=sys.stderr,
        )
        sys.exit(2)
    catalog = Catalog.open()
    try:
        RetconApp(catalog).run()
    finally:
        catalog.close()
