"""A box with several users: they see each other's device locks, and nothing else of each other."""

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
# Another user's program: it takes or looks at the lock of a device, from a home of its own.
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
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for locks as /run/lock is: all may write, nobody may remove another's files."""
    # pytest's own folders are private to the user who runs it.
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
    made = Home(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[int], tuple[subprocess.Popen[str], list[str]]]]:
    """Start the other user's program; what it printed comes with it."""
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


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")


@as_root
def test_another_user_sees_that_a_device_is_taken(box: Path, home: Home, other: Callable) -> None:
    path = device_lock_path(home, "cuda:0")
    assert path.parent == box
    with try_lock(path) as taken:
        assert taken
        process, said = other(NOBODY)
        assert said == [str(path), "False", "True"]
        process.communicate("\n")
    process, said = other(NOBODY)
    assert said == [str(path), "True", "True"]
    assert is_locked(path)
    process.communicate("\n")
    assert not is_locked(path)


@as_root
def test_whoever_comes_first_makes_a_lock_that_all_can_take(box: Path, home: Home, other: Callable) -> None:
    process, said = other(NOBODY)
    path = device_lock_path(home, "cuda:0")
    assert said[0] == str(path) and path.stat().st_uid == NOBODY
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with try_lock(path) as taken:
        assert not taken
    process.kill()
    process.communicate()
    with try_lock(path) as taken:
        assert taken
    assert [one.name for one in box.iterdir()] == [path.name]


def test_what_is_no_lock_file_is_not_locked(box: Path, home: Home, tmp_path: Path) -> None:
    """Another user may have put something else there; the jobs of this home still exclude each other."""
    own = home.locks / "device-cpu.lock"
    place = device_lock_path(home, "cpu")
    place.unlink()
    (tmp_path / "victim").touch()
    place.symlink_to(tmp_path / "victim")
    assert device_lock_path(home, "cpu") == own
    place.unlink()
    os.mkfifo(place)
    assert device_lock_path(home, "cpu") == own
    with try_lock(own) as taken:
        assert taken and is_locked(own)


def test_without_a_shared_folder_a_home_has_its_own(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETCON_LOCKS", str(tmp_path / "nowhere"))
    assert device_lock_path(home, "cuda:3") == home.locks / "device-cuda-3.lock"


def test_where_they_are_on_this_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETCON_LOCKS")
    folder = shared_lock_folder()
    anyone = stat.S_ISVTX | stat.S_IWOTH
    assert folder in (Path("/run/lock"), Path("/tmp")) and folder.stat().st_mode & anyone == anyone
