"""Values as the screens write them."""

from datetime import UTC, datetime
from pathlib import Path

from .text import sanitize


def when(moment: datetime | None) -> str:
    """A moment in UTC, to the minute."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if moment is not None else ""


def short_path(path: Path) -> str:
    """A path with ~ for the user's home."""
    home = Path.home()
    return sanitize(f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path))


def count(number: float) -> str:
    """134.5M, 45.1k, 512."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def amount(number: float) -> str:
    """61,440 or 0.9: how much of a job is done."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def some(number: int, noun: str) -> str:
    """1 case, 2 cases."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """4:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(per_second: float, unit: str) -> str:
    """Units a second, or a minute where that is less than one."""
    if per_second >= 1:
        return f"{count(per_second) if per_second >= 1000 else f'{per_second:.3g}'} {unit}/s"
    return f"{per_second * 60:.3g} {unit}/min"


def sparkline(values: list[float], width: int) -> str:
    """The run of some values, highest to lowest, in one line."""
    if len(values) > width:
        values = [values[index * len(values) // width] for index in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    steps = "▁▂▃▄▅▆▇█"
    return "".join(steps[round((value - low) / (high - low) * 7) if high > low else 0] for value in values)


def memory_free() -> int | None:
    """Bytes of memory that programs can still have; None where the system does not tell it so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
