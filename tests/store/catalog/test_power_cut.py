"""After a power cut at any call that changes the disk, no row refers to a missing, short or wrong file.

A layer between the store and the system records every call in a model of the disk (`disk_model`). After each call, the
model lists all states in which the machine may start again.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from retcon.store import atomic_files
from retcon.store import home as home_module
from retcon.store.atomic_files import write_atomically
from retcon.store.catalog import artifacts as artifacts_module
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Artifact
from retcon.store.errors import CatalogError
from retcon.store.home import Home
from retcon.store.maintenance.gc import collect
from retcon.tests.helpers.disk_model import Disk

CALLS = ("open", "mkdir", "replace", "rename", "unlink", "fsync")


class Broken(AssertionError):
    """After a power cut, a row would refer to a missing file or to one with other bytes."""


class Power:
    """Records the calls of this process below a folder. `promised` maps files that rows may name to their content."""

    def __init__(self, root: Path) -> None:
        self.disk, self.root = Disk(root), root
        self.promised: dict[Path, str] = {}
        self.cuts = self.states = 0

    def called(self, call: str, *arguments: Any) -> None:
        paths = [
            self._path(one) for one in arguments if isinstance(one, str | os.PathLike) or call == "fsync"
        ]
        if any(path is None or not path.is_relative_to(self.root) for path in paths):
            return
        first = paths[0]
        assert first is not None
        if call == "open":
            if not arguments[1] & os.O_CREAT:
                return
            self.disk.create(first)
        elif call == "mkdir":
            if first != self.root:
                self.disk.create(first)
        elif call in ("replace", "rename"):
            assert paths[1] is not None
            self.disk.rename(first, paths[1])
        elif call == "unlink":
            self.disk.remove(first)
        else:
            self.disk.sync(first, "" if first.is_dir() else hashlib.sha256(first.read_bytes()).hexdigest())
        self.cut()

    def cut(self) -> None:
        """Check the promised files in all states after a power cut at this moment."""
        self.cuts += 1
        for state in self.disk.states_after_cut():
            self.states += 1
            for path, content in self.promised.items():
                if state.get(path) != content:
                    raise Broken(f"{path} is {'missing' if path not in state else 'not whole'}")

    def promise(self, catalog: Catalog, *artifacts: Artifact) -> None:
        """Commit rows. They may reach the disk when the commit begins, or later."""
        for one in artifacts:
            self.promised[catalog.artifacts.locate(one.sha256)] = one.sha256
        self.cut()
        with catalog.write() as session:
            for one in artifacts:
                session.merge(one)

    def _path(self, target: Any) -> Path | None:
        path = (
            Path(f"/proc/self/fd/{target}").readlink()
            if isinstance(target, int)
            else Path(os.fsdecode(target))
        )
        return path if path.is_absolute() else None


@contextmanager
def watched(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Power]:
    power = Power(root)

    def between(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def through(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            power.called(call, *arguments)
            return result

        return through

    with monkeypatch.context() as patched:
        for call in CALLS:
            patched.setattr(os, call, between(call, getattr(os, call)))
        yield power


def store_and_collect(power: Power, home: Home) -> None:
    """Store new and existing bytes and arrays, then collect unreferenced files."""
    catalog = Catalog.open(home)
    store = catalog.artifacts
    for number in range(3):
        power.promise(catalog, store.put_bytes(b"x" * number))
    power.promise(catalog, store.put_tensors({"a": np.ones(1000)}))
    power.promise(catalog, store.put_bytes(b"one"), store.put_bytes(b"two"))
    store.put_bytes(b"one")  # again: the new file replaces the intact one
    store.put_tensors({"a": np.ones(1000)})
    unreferenced = store.put_bytes(b"no row names it")
    os.utime(store.locate(unreferenced.sha256), (1, 1))
    store.close()
    collect(catalog, delete=True)
    power.cut()
    catalog.close()


def test_rows_reference_complete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(tmp_path / "home", monkeypatch) as power:
        store_and_collect(power, Home(tmp_path / "home"))
    # Each of the 8 stored files makes at least 6 calls.
    assert power.cuts > 60 and power.states > 1000 and len(power.promised) == 6


# By the call of fsync that is skipped: the paths of the call, and the module that makes it.
SKIPPED_SYNCS: dict[str, tuple[Callable[[Path], bool], ModuleType]] = {
    "file": (lambda path: path.is_file(), artifacts_module),
    "its folder": (lambda path: len(path.name) == 2, artifacts_module),
    "folder of its folder": (lambda path: path.name == "artifacts", artifacts_module),
    "home": (lambda path: True, home_module),
}


@pytest.mark.parametrize("skipped", SKIPPED_SYNCS)
def test_harness_detects_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: str) -> None:
    """The harness finds a broken promise if any one of the store's calls of fsync is skipped."""
    is_skipped, module = SKIPPED_SYNCS[skipped]
    sync_path = atomic_files.sync_path
    monkeypatch.setattr(module, "sync_path", lambda path: None if is_skipped(path) else sync_path(path))
    with watched(tmp_path / "home", monkeypatch) as power, pytest.raises(Broken):
        store_and_collect(power, Home(tmp_path / "home"))


def test_write_atomically_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure"
    contents = {hashlib.sha256(text).hexdigest(): text for text in (b"old", b"new")}
    with watched(tmp_path, monkeypatch) as power:
        write_atomically(path, lambda partial: partial.write_bytes(b"old"))
        power.promised[path] = next(iter(contents))
        power.cut()
        power.promised.clear()
        seen = set()
        cut = power.cut

        def either() -> None:
            cut()
            seen.update(state.get(path) for state in power.disk.states_after_cut())

        monkeypatch.setattr(power, "cut", either)
        write_atomically(path, lambda partial: partial.write_bytes(b"new"))
    assert seen == set(contents)


def test_disk_error_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a disk error at any call, earlier artifacts are intact, and the next attempt succeeds."""
    catalog = Catalog.open(Home(tmp_path / "home"))
    with catalog.write() as session:
        session.merge(catalog.artifacts.put_bytes(b"one"))
    failed = 0
    for number in range(1, 30):
        calls = 0

        def fails(real: Callable[..., Any], at: int = number) -> Callable[..., Any]:
            def through(*arguments: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    raise OSError(errno.EIO, "Input/output error")
                return real(*arguments, **named)

            return through

        for data in (b"one", f"new {number}".encode()):
            calls = 0
            with monkeypatch.context() as patched:
                for call in (*CALLS, "chmod"):
                    patched.setattr(os, call, fails(getattr(os, call)))
                with suppress(OSError, CatalogError):
                    artifact = catalog.artifacts.put_bytes(data)
                    with catalog.write() as session:
                        session.merge(artifact)
            failed += calls >= number
            with catalog.read() as session:
                for row in session.exec(select(Artifact)):
                    assert catalog.artifacts.verify(row.sha256) is None
            assert catalog.artifacts.verify(catalog.artifacts.put_bytes(data).sha256) is None
    assert 15 < failed < 58  # every call of the store failed once; it makes fewer than 29
    catalog.close()
