"""Numbers, times, sizes and paths as text, and the progress line of a command that runs without a job."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from .text import sanitize

_REDRAW_SECONDS = 0.2  # on a terminal
_LINE_SECONDS = 5.0  # in a pipe or a file
_UNITS = ("B", "kB", "MB", "GB")
T = TypeVar("T")


def format_time(moment: datetime | None) -> str:
    """A moment in UTC, to the minute."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if moment is not None else ""


def format_path(path: Path) -> str:
    """A path with ~ for the user's home."""
    home = Path.home()
    return sanitize(f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path))


def format_size(size: float) -> str:
    """A number of bytes: `512 B`, `3.5 MB`."""
    step = 0
    while size >= 1000 and step < len(_UNITS) - 1:
        size, step = size / 1000, step + 1
    return f"{size:.0f} B" if step == 0 else f"{size:.1f} {_UNITS[step]}"


def format_count(number: float) -> str:
    """A rounded number: 134.5M, 45.1k, 512."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.1f}{letter}"
    return f"{number:.0f}"


def format_amount(number: float) -> str:
    """Progress of a job: 61,440 or 0.9."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def plural(number: int, noun: str) -> str:
    """1 case, 2 cases."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_duration(seconds: float | None) -> str:
    """`4:05` or `1:02:03`; empty if unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_rate(per_second: float, unit: str) -> str:
    """Units per second; units per minute below one per second."""
    if per_second >= 1:
        return f"{format_count(per_second) if per_second >= 1000 else f'{per_second:.3g}'} {unit}/s"
    return f"{per_second * 60:.3g} {unit}/min"


def format_activity(activity: str, detail: str) -> str:
    """The phase of a job, and the detail within it if there is one."""
    return f"{activity}: {detail}" if detail else activity


def sparkline(values: Sequence[float], width: int) -> str:
    """A series in one line of at most `width` bars, scaled from its lowest to its highest value."""
    if len(values) > width:
        values = [values[index * len(values) // width] for index in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    steps = "▁▂▃▄▅▆▇█"
    return "".join(steps[round((value - low) / (high - low) * 7) if high > low else 0] for value in values)


class ProgressLine:
    """Bytes done and left, on stderr: redrawn in place on a terminal, a new line every few seconds elsewhere."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._started = self._updated = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def update(self, done: int, total: int) -> None:
        """Print the progress, at most as often as the line may change."""
        now = time.monotonic()
        if now - self._updated < (_REDRAW_SECONDS if self._on_terminal else _LINE_SECONDS):
            return
        self._updated = now
        text = f"{self.label}: {format_size(done)} of {format_size(total)}"
        if done:
            text += f", {(total - done) * (now - self._started) / done:.0f} s left"
        self._write(f"\r\x1b[K{text}" if self._on_terminal else f"{text}\n")

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._on_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def with_progress(label: str, work: Callable[[Callable[[int, int], object]], T]) -> T:
    """Call `work` with a callback (bytes done, bytes in total) and show that progress."""
    line = ProgressLine(label)
    try:
        return work(line.update)
    finally:
        line.clear()
