"""Run a command of `retcon` itself, for verbs whose whole logic is the command's."""

import os
import subprocess
import sys

from ..store.errors import InputError
from ..store.home import Home


def run_command(home: Home, *words: str) -> str:
    """Run it to its end; the last line that it printed.

    Raises:
        InputError: it ended otherwise than done; the message is its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", "retcon.tui", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        encoding="utf-8", errors="replace", env=os.environ | {"RETCON_HOME": str(home.root)}, check=False,
    )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    last = said[-1] if said else "done"
    if done.returncode != 0:
        raise InputError(last.removeprefix("Error: "))
    return last
