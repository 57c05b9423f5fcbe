"""The console script: opens the app without arguments, else runs the command line."""

import gc
import sys


def main() -> None:
    """Run `retcon`. Without arguments the command line is not imported, so that the app opens faster."""
    if len(sys.argv) > 1:
        from .cli.main import main as command_line

        command_line()
        return
    # The imports create about 100,000 objects that stay alive: collecting garbage meanwhile only costs time.
    gc.disable()
    from ..store.errors import CatalogError, InputError
    from .app.app import run

    try:
        run()
    except (CatalogError, InputError, OSError) as error:
        from .presentation.text import sanitize

        print(f"Error: {sanitize(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
