"""Budgets of the app: bytes sent to the terminal, memory, CPU time. The benchmark prints the figures."""

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from retcon.benchmarks.large_catalog import build_large_catalog
from retcon.benchmarks.terminal import APP, Terminal

pytestmark = pytest.mark.slow
ROWS = 20_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_large_catalog(tmp_path_factory.mktemp("large") / "home", ROWS).root


@pytest.fixture
def terminal(large: Path) -> Iterator[Terminal]:
    """The idle app on the jobs tab with the list alone."""
    with Terminal((*APP, "ui", "jobs"), {"RETCON_HOME": str(large)}) as opened:
        opened.wait_for(b"Tower 20000")
        opened.wait_until_idle()
        opened.press("+")
        opened.wait_until_idle()
        yield opened


def test_cursor_move_repaints_two_lines(terminal: Terminal) -> None:
    sizes = []
    for _ in range(12):
        terminal.press("j")
        sizes.append(len(terminal.read(0.08)))
    assert 0 < statistics.median(sizes) <= 400


def test_page_down_repaints_one_screen(terminal: Terminal) -> None:
    for keys in ("\x04\x04", "G", "\x15\x15"):
        terminal.press(keys)
        assert 1000 < len(terminal.read(0.5)) <= 7000


def test_idle_app_sends_nothing(terminal: Terminal) -> None:
    terminal.read(1.0)
    assert terminal.read(4.0) == b""


def test_memory_stays_in_budget(terminal: Terminal) -> None:
    terminal.press("G")
    terminal.wait_until_idle()
    assert terminal.memory < 60
