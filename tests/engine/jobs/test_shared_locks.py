"""A machine with several users: they share device locks and nothing else."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retcon.engine.jobs.locks import device_lock_path, is_locked, shared_lock_folder, try_lock
from retcon.store.home import Home

NOBODY = 65534
# The program of another user with another home: it takes the lock of a device if it is free.
OTHER = """
import os, sys
from pathlib import Path
from retcon.engine.jobs.locks import device_lock_path, is_locked, try_lock
from retcon.store.home import Home
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); os.umask(0o077)
path = device_lock_path(Home(Path(sys.argv[1])), "cuda:0")
with try_lock(path) as taken:
    print(path, taken, is_locked(path), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def lock_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock folder like /run/lock: everyone can write, only owners can delete."""
    # The folders of pytest are private to its user.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    locks = tmp_path / "lock"
    locks.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setenv("RETCON_LOCKS", str(locks))
    return locks


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[int], tuple[subprocess.Popen[str], list[str]]]]:
    """Start the other user's program; returns the process and the words that it printed."""
    started: list[subprocess.Popen[str]] = []

    def start(user: int) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(tmp_path / "theirs"), str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().split()

    yield start
    for process in started:
        process.kill()
        process.communicate()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run as several users")


@as_root
def test_another_user_sees_a_device_in_use(lock_folder: Path, home: Home, other: Callable) -> None:
    path = device_lock_path(home, "cuda:0")
    assert path.parent == lock_folder
    with try_lock(path) as taken:
        assert taken
        process, output = other(NOBODY)
        assert output == [str(path), "False", "True"]
        process.communicate("\n")
    process, output = other(NOBODY)
    assert output == [str(path), "True", "True"]
    assert is_locked(path)
    process.communicate("\n")
    assert not is_locked(path)


@as_root
def test_all_users_can_take_a_lock_that_one_created(lock_folder: Path, home: Home, other: Callable) -> None:
    process, output = other(NOBODY)
    path = device_lock_path(home, "cuda:0")
    assert output[0] == str(path) and path.stat().st_uid == NOBODY
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with try_lock(path) as taken:
        assert not taken
    process.kill()
    process.communicate()
    with try_lock(path) as taken:
        assert taken
    assert [one.name for one in lock_folder.iterdir()] == [path.name]


def test_links_and_pipes_are_not_used_as_locks(lock_folder: Path, home: Home, tmp_path: Path) -> None:
    """Another user may plant another kind of file. The jobs of this home still exclude each other."""
    own = home.locks / "device-cpu.lock"
    path = device_lock_path(home, "cpu")
    path.unlink()
    (tmp_path / "victim").touch()
    path.symlink_to(tmp_path / "victim")
    assert device_lock_path(home, "cpu") == own
    path.unlink()
    os.mkfifo(path)
    assert device_lock_path(home, "cpu") == own
    with try_lock(own) as taken:
        assert taken and is_locked(own)


def test_a_home_has_its_own_locks_without_a_shared_folder(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETCON_LOCKS", str(tmp_path / "nowhere"))
    assert device_lock_path(home, "cuda:3") == home.locks / "device-cuda-3.lock"


def test_the_default_lock_folder_is_world_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETCON_LOCKS")
    folder = shared_lock_folder()
    anyone = stat.S_ISVTX | stat.S_IWOTH
    assert folder in (Path("/run/lock"), Path("/tmp")) and folder.stat().st_mode & anyone == anyone
