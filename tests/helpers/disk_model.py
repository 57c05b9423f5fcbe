"""A disk whose power may fail at any moment: what has reached it for certain, and what may have or not.

The harshest reading of POSIX: the bytes of a file are there after its fsync, a name in a folder after the folder's
fsync. Until then each may be there or not, in any combination: a rename may have reached the disk without the bytes,
one half of it without the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import PurePath

# More than so many names in the balance at once are not tried in all combinations.
_ALL_COMBINATIONS = 10


@dataclass(eq=False)
class Node:
    """A file or a folder. `content` is what is on the disk for certain; None where that is anything."""

    content: str | None = None
    now: dict[str, "Node"] = field(default_factory=dict)
    durable: dict[str, "Node"] = field(default_factory=dict)


class Disk:
    """What is below `root`, told by the calls that changed it. What was there before the first is there for certain."""

    def __init__(self, root: PurePath) -> None:
        self.root, self._top = root, Node()
        # Names in the balance, oldest first: folder, name, what it names (None: nothing).
        self._pending: list[tuple[Node, str, Node | None]] = []

    def create(self, path: PurePath) -> None:
        """A file was made, or emptied, or made a folder: here the same."""
        if self._find(path) is None:
            self._name(path, Node())

    def write(self, path: PurePath) -> None:
        """Bytes of a file were changed."""
        self.create(path)
        node = self._find(path)
        assert node is not None
        node.content = None

    def rename(self, old: PurePath, new: PurePath) -> None:
        self.create(old)
        node = self._find(old)
        self._name(new, node)
        self._name(old, None)

    def remove(self, path: PurePath) -> None:
        self._name(path, None)

    def sync(self, path: PurePath, content: str) -> None:
        """fsync of a file that holds `content`, or of a folder, of which the names are now certain."""
        node = self._find(path)
        if node is None:
            self.create(path)
            node = self._find(path)
        assert node is not None
        node.content = content
        node.durable = dict(node.now)
        self._pending = [one for one in self._pending if one[0] is not node]

    def after_a_cut(self) -> Iterator[dict[PurePath, str | None]]:
        """Every state in which the disk may be found: the content of each file, None for no certain one."""
        for chosen in self._choices(len(self._pending)):
            changed = {id(node): dict(node.durable) for node in self._nodes(self._top)}
            for (folder, name, node), there in zip(self._pending, chosen, strict=True):
                if there:
                    entries = changed.setdefault(id(folder), dict(folder.durable))
                    entries.pop(name, None)
                    if node is not None:
                        entries[name] = node
            yield dict(self._files(self._top, self.root, changed))

    def _choices(self, count: int) -> Iterator[Sequence[bool]]:
        if count <= _ALL_COMBINATIONS:
            yield from product((False, True), repeat=count)
            return
        yield [False] * count
        yield [True] * count
        for one in range(count):
            yield [number == one for number in range(count)]
            yield [number != one for number in range(count)]
            yield [number < one for number in range(count)]

    def _files(
        self, node: Node, path: PurePath, changed: dict[int, dict[str, Node]]
    ) -> Iterator[tuple[PurePath, str | None]]:
        for name, child in changed.get(id(node), node.durable).items():
            yield path / name, child.content
            yield from self._files(child, path / name, changed)

    def _nodes(self, node: Node) -> Iterator[Node]:
        yield node
        for child in {id(one): one for one in (*node.now.values(), *node.durable.values())}.values():
            yield from self._nodes(child)

    def _find(self, path: PurePath) -> Node | None:
        node: Node | None = self._top
        for name in path.relative_to(self.root).parts:
            node = node.now.get(name) if node else None
        return node

    def _name(self, path: PurePath, node: Node | None) -> None:
        if path.parent != self.root:
            self.create(path.parent)
        folder = self._find(path.parent)
        assert folder is not None
        folder.now.pop(path.name, None)
        if node is not None:
            folder.now[path.name] = node
        self._pending.append((folder, path.name, node))
