"""A catalog per test, and processes that hold a lock of it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home

HOLD = (
    "import sys, time; from pathlib import Path; from retcon.engine.jobs.locks import try_lock\n"
    "with try_lock(Path(sys.argv[1])) as taken: print(taken, flush=True); time.sleep(600)"
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(Home(tmp_path / "home"))
    yield opened
    opened.close()


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Have another process hold a lock; it is killed in the end."""
    holders: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        return holder

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()
