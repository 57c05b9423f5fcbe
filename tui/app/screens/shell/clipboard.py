"""Copy text to the clipboard of the terminal where the user sits, which may be some hops away."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

# tmux lets neither a bare nor a wrapped OSC 52 of a program through with its defaults; its own command it obeys.
_TMUX = ("tmux", "load-buffer", "-w", "-")
# What terminals take in one OSC 52 (xterm's limit, before base64).
_OSC52_BYTES = 74_994


def copy(text: str, osc52: Callable[[str], None], file: Path) -> str:
    """Copy, and say which way it went: through tmux if one runs, else by the escape sequence OSC 52.

    Whether a terminal obeyed the sequence nobody tells; so the text is also in a file.
    """
    if os.environ.get("TMUX"):
        try:
            subprocess.run(_TMUX, input=text.encode(), check=True, timeout=2, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return "copied, also to the tmux buffer"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(text + "\n")
    if len(text.encode()) > _OSC52_BYTES:
        return f"too long for the terminal's clipboard; written to {file}"
    osc52(text)
    return f"sent to the terminal's clipboard (OSC 52), and to {file}"
