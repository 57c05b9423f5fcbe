"""Reach the user's own terminal, which may be several SSH hops away: desktop notices and the clipboard."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ....presentation.text import sanitize

# Terminals that support OSC 777 and not OSC 9.
_OSC777 = ("foot", "rxvt", "vte", "gnome")
# By default tmux blocks OSC 52 from programs, bare or wrapped, but this command sets the terminal's clipboard.
_TMUX = ("tmux", "load-buffer", "-w", "-")
# Size limit of one OSC 52 (xterm's, before base64).
_OSC52_BYTES = 74_994


def notice_sequence(text: str) -> str:
    """The escape sequence of a desktop notice. A terminal that does not support it ignores it."""
    words = sanitize(text).replace(";", ",")
    terminal = f"{os.environ.get('TERM', '')} {os.environ.get('TERM_PROGRAM', '')}".lower()
    if any(name in terminal for name in _OSC777) or os.environ.get("VTE_VERSION"):
        sequence = f"\x1b]777;notify;retcon;{words}\x07"
    else:
        sequence = f"\x1b]9;retcon: {words}\x07"
    if os.environ.get("TMUX"):
        # Passes through tmux only with `allow-passthrough on`. The bell always passes.
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence


def copy(text: str, send_osc52: Callable[[str], None], file: Path) -> str:
    """Copy a text by tmux if it runs, else by the escape sequence OSC 52; returns a sentence with the way.

    A terminal does not confirm OSC 52, so the text is also written to `file`.
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
    send_osc52(text)
    return f"sent to the terminal's clipboard (OSC 52), and to {file}"
