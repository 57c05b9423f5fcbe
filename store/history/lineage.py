"""Rules of a history's tree that need no tables of the catalog."""

from collections.abc import Sequence
from typing import Protocol


class Step(Protocol):
    """The fields of a revision that decide whether it is reverted."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def reverts(self) -> str | None: ...


def find_reverted(path: Sequence[Step]) -> set[str]:
    """The ids of the reverted revisions on a path. A revert that is itself reverted has no effect."""
    reverted: set[str] = set()
    # A revert names an earlier revision. From the end, each revert is decided before the revision that it names.
    for revision in reversed(path):
        if revision.kind == "revert" and revision.reverts is not None and revision.id not in reverted:
            reverted.add(revision.reverts)
    return reverted
