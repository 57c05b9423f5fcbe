"""Rules of a history's tree that need no tables of the catalog."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Step(Protocol):
    """The fields of a revision that decide whether it is reverted."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def reverts(self) -> str | None: ...


class Child(Step, Protocol):
    """A step that names its parent."""

    @property
    def parent(self) -> str | None: ...


ChildT = TypeVar("ChildT", bound=Child)


def find_reverted(path: Sequence[Step]) -> set[str]:
    """The ids of the reverted revisions on a path. A revert that is itself reverted has no effect."""
    reverted: set[str] = set()
    # A revert names an earlier revision. From the end, each revert is decided before the revision that it names.
    for revision in reversed(path):
        if revision.kind == "revert" and revision.reverts is not None and revision.id not in reverted:
            reverted.add(revision.reverts)
    return reverted


def parents_first(revisions: Sequence[ChildT]) -> list[ChildT]:
    """The revisions that descend from a base, each after its parent."""
    children: dict[str | None, list[ChildT]] = {}
    for row in revisions:
        children.setdefault(row.parent, []).append(row)
    found = list(children[None])
    for row in found:  # the list grows during the iteration
        found += children.get(row.id, [])
    return found
