"""How the science says how far it is. It knows no database and no terminal."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` (in `unit`), and what is being done now.

    `share` is the share of the whole work that is done, in [0, 1], where that is not `done / total` because units cost
    differently; the time left is told from it.
    """

    done: float
    total: float | None
    unit: str
    activity: str
    share: float | None = None


# A reporter may raise `StopRequested`; every loop reports at points where stopping leaves nothing half-written.
Report = Callable[[Progress], None]


def silent(_progress: Progress) -> None:
    """A reporter for callers who do not want to know."""
