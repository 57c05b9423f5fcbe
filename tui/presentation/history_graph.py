"""A history as a graph of lanes, one line a revision, newest first, as `git log --graph` does."""

from collections.abc import Sequence


def draw(revisions: Sequence[tuple[str, str | None]], marks: Sequence[str]) -> list[str]:
    """One string a revision, from its (id, parent) and the mark that stands for it.

    Where a branch begins, the lanes of the younger ones run into the mark: `●─╯`.
    """
    lanes: list[str | None] = []  # the id that each lane waits for; None is a free lane
    lines = []
    for (id, parent), mark in zip(revisions, marks, strict=True):
        waiting = [index for index, wanted in enumerate(lanes) if wanted == id]
        if not waiting:
            free = next((index for index, wanted in enumerate(lanes) if wanted is None), len(lanes))
            if free == len(lanes):
                lanes.append(None)
            waiting = [free]
        own = waiting[0]
        last = waiting[-1]
        cells = []
        for index in range(max(len(lanes), last + 1)):
            if index == own:
                cells.append(mark)
            elif index in waiting:
                cells.append("╯" if index == last else "┴")
            elif own < index < last:
                cells.append("┼" if lanes[index] is not None else "─")
            else:
                cells.append("│" if lanes[index] is not None else " ")
        line = cells[0]
        for index in range(1, len(cells)):
            line += ("─" if own < index <= last else " ") + cells[index]
        lines.append(line.rstrip())
        for index in waiting[1:]:
            lanes[index] = None
        lanes[own] = parent
        while lanes and lanes[-1] is None:
            lanes.pop()
    return lines
