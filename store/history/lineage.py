"""What a revert takes out: the one rule of a history that is needed without the catalog's tables."""

from collections.abc import Sequence
from typing import Protocol


class Step(Protocol):
    """A revision, as far as the rule goes."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def reverts(self) -> str | None: ...


def find_reverted(path: Sequence[Step]) -> set[str]:
    """The ids on the path that a revert takes out; a revert that was itself taken out takes out nothing."""
    out: set[str] = set()
    # A revert names an earlier revision, so from the end on it is known whether a revert still counts.
    for revision in reversed(path):
        if revision.kind == "revert" and revision.reverts is not None and revision.id not in out:
            out.add(revision.reverts)
    return out
