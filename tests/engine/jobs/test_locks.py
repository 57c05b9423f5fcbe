"""Kernel locks: how long they are held, and how they pass to a child process."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retcon.engine.jobs.locks import (
    device_lock_path,
    hold_lock,
    is_descriptor_of,
    is_locked,
    job_lock_path,
    try_lock,
)
from retcon.store.catalog.catalog import Catalog


def test_a_killed_process_releases_its_lock(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    path = job_lock_path(catalog.home, 1)
    assert not is_locked(path) and not path.exists()
    holder = hold(path)
    assert is_locked(path) and is_locked(path)
    with try_lock(path) as taken:
        assert not taken
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_locked(path)


def test_concurrent_checks_see_no_holder(catalog: Catalog) -> None:
    """The app and two terminals check at once; none may report that a dead job is alive."""
    path = job_lock_path(catalog.home, 1)
    path.touch()
    checker = "import sys; from pathlib import Path; from retcon.engine.jobs.locks import is_locked\n"
    checker += "sys.stdin.readline(); print(any(is_locked(Path(sys.argv[1])) for _ in range(20_000)))"
    checkers = [
        subprocess.Popen(
            [sys.executable, "-c", checker, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for one in checkers:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    assert [one.communicate()[0] for one in checkers] == ["False\n"] * 2


def test_waiting_for_a_lock_leaves_no_open_file(catalog: Catalog) -> None:
    """A job may wait for its device for a week, with three checks per second."""
    path = device_lock_path(catalog.home, "cpu")
    with try_lock(path) as taken:
        assert taken
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(50):
            with try_lock(path) as taken_again:
                assert not taken_again
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_lock_passes_to_a_child_process(catalog: Catalog) -> None:
    """The lock stays held while the first holder closes it."""
    path = job_lock_path(catalog.home, 1)
    script = "import sys, time; print('up', flush=True); time.sleep(600)"
    with hold_lock(path) as descriptor:
        assert is_descriptor_of(descriptor, path) and not is_descriptor_of(
            descriptor, job_lock_path(catalog.home, 2)
        )
        child = subprocess.Popen(
            [sys.executable, "-c", script], pass_fds=(descriptor,), stdout=subprocess.PIPE
        )
    assert is_locked(path)
    with pytest.raises(BlockingIOError), hold_lock(path, patience=0.1):
        pass
    child.kill()
    child.communicate()
    assert not is_locked(path)
    assert not is_descriptor_of(descriptor, path), "the descriptor is closed in this process"
