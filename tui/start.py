"""What the console script calls: the app at once where nothing else is asked for, else the command line."""

import gc
import sys


def main() -> None:
    """`retcon`. Without arguments nothing of the command line is imported, so that the first paint comes sooner."""
    if len(sys.argv) > 1:
        from .cli.main import main as command_line

        command_line()
        return
    # A start makes a hundred thousand objects that stay, and looking through them for rubbish finds none.
    gc.disable()
    from ..store.errors import CatalogError, InputError
    from .app.app import run

    try:
        run()
    except (CatalogError, InputError, OSError) as error:
        from .presentation.text import sanitize

        print(f"Error: {sanitize(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
