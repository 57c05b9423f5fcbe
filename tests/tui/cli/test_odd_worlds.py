"""Unusual terminals, clocks and concurrent programs work or give a clear error."""

import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.tests.helpers.app_pilot import AppPilot, open_app
from retcon.tests.helpers.command_line import Retcon
from retcon.tui.app.app import RetconApp
from retcon.tui.presentation.encoding import install_ascii_fallback
from retcon.tui.presentation.heatmap import ESTIMATED_GLYPHS, EXACT_GLYPHS


def said(catalog: Catalog, *words: str, **environment: str) -> bytes:
    """The output of the program in the terminal's encoding."""
    done = subprocess.run(
        [sys.executable, "-m", "retcon.tui", *words], capture_output=True, timeout=60, check=False,
        env=os.environ | {"RETCON_HOME": str(catalog.home.root)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ascii_terminal_gets_fallback_characters(catalog: Catalog) -> None:
    """The fallback characters have the same width, and JSON has the same content."""
    here = Retcon(catalog.home.root)
    ascii_only = said(catalog, "trace", "show", "1", PYTHONIOENCODING="ascii").decode("ascii").splitlines()
    assert [len(line) for line in ascii_only] == [len(line) for line in here("trace", "show", 1).splitlines()]
    assert not any("?" in line for line in ascii_only)
    data = said(catalog, "trace", "show", "1", "--json", PYTHONIOENCODING="latin-1").decode("ascii")
    assert json.loads(data) == here.json("trace", "show", 1)


def test_ascii_fallback_distinguishes_estimated_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    install_ascii_fallback()
    sys.stdout.write(EXACT_GLYPHS)
    sys.stdout.flush()
    shades = printed.getvalue().decode("ascii")
    assert len(set(shades)) == len(EXACT_GLYPHS) and not set(shades) & set(ESTIMATED_GLYPHS)


@pytest.mark.parametrize("size", [(60, 20), (10, 3)])
async def test_app_survives_small_windows_and_a_resize(catalog: Catalog, size: tuple[int, int]) -> None:
    async with open_app(catalog, size) as app:
        for keys in (
            ("2", "G", "enter"),
            ("question_mark", "escape"),
            ("escape", "t", "escape"),
            ("4", "j", "enter"),
        ):
            await app.press(*keys)
            await app.pilot.resize_terminal(140, 40)
            await app.pilot.resize_terminal(*size)
        await app.press("escape", "2")
        await app.pilot.resize_terminal(80, 24)
        await app.until(lambda: "The Eiffel Tower" in app.screen)


async def test_clock_set_back_shows_no_negative_time(catalog: Catalog) -> None:
    with catalog.write() as session:
        job = session.get(Job, 1)
        assert job is not None and job.started is not None
        job.state, job.ended = "done", job.started - timedelta(days=2)
        session.add(job)
    async with open_app(catalog, (140, 40)) as app:
        await app.press("5", "G")
        assert any(" 1 " in row for row in app.list)
        assert "-" not in "".join(row.split("took")[1] for row in app.list if "took" in row)


async def test_two_apps_show_the_same_changes(catalog: Catalog) -> None:
    """A change in one app appears in the other."""
    other = Catalog.open(catalog.home)
    try:
        async with open_app(catalog) as first:
            app = RetconApp(other)
            async with app.run_test(size=(80, 24)) as pilot:
                second = AppPilot(app, pilot)
                await second.settle()
                await second.press("1")
                before = first.list
                await first.press("4", "j", "b", "y")
                await second.press("4")
                await second.until(lambda: second.list != before)
                await first.until(lambda: first.list == second.list)
    finally:
        other.close()


def test_a_read_only_home_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a read-only file system: root can write to all others."""
    from retcon.store.catalog import connection as opening

    retcon = Retcon(tmp_path / "home")
    retcon("model", "list")

    def read_only(_path: Path) -> None:
        import sqlite3

        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr(opening, "connect", read_only)
    told = retcon.say("model", "list")
    assert told.code == 1 and "cannot be opened for writing" in told.sentence
