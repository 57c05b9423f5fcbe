"""Tell the terminal that a job has ended: most can show it as a notice of the desktop, wherever the window is."""

import os

from ....presentation.text import sanitize

# Terminals that know OSC 777 and not OSC 9.
_OSC777 = ("foot", "rxvt", "vte", "gnome")


def notice(text: str) -> str:
    """The escape sequence for a notice; what a terminal does not know it passes over."""
    words = sanitize(text).replace(";", ",")
    who = f"{os.environ.get('TERM', '')} {os.environ.get('TERM_PROGRAM', '')}".lower()
    if any(name in who for name in _OSC777) or os.environ.get("VTE_VERSION"):
        sequence = f"\x1b]777;notify;retcon;{words}\x07"
    else:
        sequence = f"\x1b]9;retcon: {words}\x07"
    if os.environ.get("TMUX"):
        # Through tmux only where the user allows it (allow-passthrough on); the bell comes through either way.
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence
