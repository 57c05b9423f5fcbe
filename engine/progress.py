"""Progress reports of the science."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` in `unit`, and the current activity.

    `activity` is the phase of the work, such as "searching values". `detail` changes within it: "mean loss 0.12".
    `share` is the fraction of the work that is done, in [0, 1]. Set it where units cost differently; otherwise it is
    `done / total`. The remaining time is estimated from it.
    """

    done: float
    total: float | None
    unit: str
    activity: str
    detail: str = ""
    share: float | None = None


# Receives progress. It may raise `StopRequested`: a loop reports only where an interruption loses no finished work.
Report = Callable[[Progress], None]


def silent(_progress: Progress) -> None:
    """A `Report` that ignores progress."""
