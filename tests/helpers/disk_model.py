"""A model of a disk that may lose power at any moment. It lists all states of the files after a power cut.

It follows the strictest reading of POSIX. The bytes of a file are durable after its fsync, a name in a folder after the
fsync of the folder. Until then each may be lost, in any combination. A rename may reach the disk without the bytes, or
only half of the rename.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import PurePath

# Up to this number of pending names, all combinations are tried.
_ALL_COMBINATIONS = 10


@dataclass(eq=False)
class Node:
    """A file or a folder. `content` is the durable content; None if the content is uncertain."""

    content: str | None = None
    now: dict[str, "Node"] = field(default_factory=dict)
    durable: dict[str, "Node"] = field(default_factory=dict)


class Disk:
    """The files below `root`, as changed by the recorded calls. Files from before the first call are durable."""

    def __init__(self, root: PurePath) -> None:
        self.root, self._top = root, Node()
        # Names that are not yet durable, oldest first: folder, name, new node (None if the name was removed).
        self._pending: list[tuple[Node, str, Node | None]] = []

    def create(self, path: PurePath) -> None:
        """Record that a file or a folder was created, or a file emptied."""
        if self._find(path) is None:
            self._name(path, Node())

    def write(self, path: PurePath) -> None:
        """Record that bytes of a file were changed."""
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
        """Record an fsync of a file with `content`, or of a folder, whose names are then durable."""
        node = self._find(path)
        if node is None:
            self.create(path)
            node = self._find(path)
        assert node is not None
        node.content = content
        node.durable = dict(node.now)
        self._pending = [one for one in self._pending if one[0] is not node]

    def states_after_cut(self) -> Iterator[dict[PurePath, str | None]]:
        """All possible states after a power cut: the content of each file, None if it is uncertain."""
        for chosen in self._choices(len(self._pending)):
            changed = {id(node): dict(node.durable) for node in self._nodes(self._top)}
            for (folder, name, node), is_durable in zip(self._pending, chosen, strict=True):
                if is_durable:
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
