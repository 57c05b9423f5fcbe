"""A history as a graph of lanes, one line per revision, newest first, like `git log --graph`."""

from collections.abc import Sequence


def draw_graph(revisions: Sequence[tuple[str, str | None]], marks: Sequence[str]) -> list[str]:
    """One string per revision, from its (id, parent) and its mark.

    Where branches start, the lanes of the later ones join at the mark: `●─╯`.
    """
    lanes: list[str | None] = []  # the revision id that each lane leads to; None is a free lane
    lines = []
    for (id, parent), mark in zip(revisions, marks, strict=True):
        joining = [index for index, target in enumerate(lanes) if target == id]
        if not joining:
            free = next((index for index, target in enumerate(lanes) if target is None), len(lanes))
            if free == len(lanes):
                lanes.append(None)
            joining = [free]
        own, last = joining[0], joining[-1]
        cells = []
        for index in range(max(len(lanes), last + 1)):
            if index == own:
                cells.append(mark)
            elif index in joining:
                cells.append("╯" if index == last else "┴")
            elif own < index < last:
                cells.append("┼" if lanes[index] is not None else "─")
            else:
                cells.append("│" if lanes[index] is not None else " ")
        line = cells[0]
        for index in range(1, len(cells)):
            line += ("─" if own < index <= last else " ") + cells[index]
        lines.append(line.rstrip())
        for index in joining[1:]:
            lanes[index] = None
        lanes[own] = parent
        while lanes and lanes[-1] is None:
            lanes.pop()
    return lines
