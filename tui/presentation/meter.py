"""How far a command is that does its work itself, without a job: a line on stderr."""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ..cli.output import narrate

_DRAW_SECONDS = 0.2
_LINE_SECONDS = 5.0
T = TypeVar("T")


class Meter:
    """Bytes done of all, drawn over on a terminal; a line now and then in a log or a pipe."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        """Called as often as one likes."""
        now = time.monotonic()
        if now - self._shown < (_DRAW_SECONDS if self._terminal else _LINE_SECONDS):
            return
        self._shown = now
        text = f"{self.what}: {size(done)} of {size(total)}"
        if done:
            text += f", {(total - done) * (now - self._began) / done:.0f} s left"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        else:
            narrate(text)

    def end(self) -> None:
        """Take the line away again."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def metered(what: str, work: Callable[[Callable[[int, int], object]], T]) -> T:
    """Do work that tells its progress, and show that."""
    meter = Meter(what)
    try:
        return work(meter.show)
    finally:
        meter.end()


def size(count: int) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
