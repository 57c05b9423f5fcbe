"""The app in a real terminal that is killed, disconnected and resized. Slow: real jobs in real processes."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home
from retcon.store.states import ENDED_STATES
from retcon.tests.helpers.app_catalog import jobs_of
from retcon.tests.helpers.tmux import Tmux

pytestmark = pytest.mark.slow


def ended(home: Path) -> str:
    """Wait until the only job ends; returns its state."""
    catalog = Catalog.open(Home(home), migrate=False)
    try:
        for _ in range(600):
            job = jobs_of(catalog)[0]
            if job.state in ENDED_STATES:
                return job.state
            time.sleep(0.2)
        raise AssertionError(f"the job never ended: it is {job.state}")
    finally:
        catalog.close()


def add_model(terminal: Tmux, folder: Path) -> None:
    """Start a job from the app that adds a model, which takes some seconds."""
    terminal.until("No models yet")
    terminal.press("a")
    terminal.until("Add a model")
    terminal.press("-l", str(folder))
    terminal.until("$ retcon model add")
    terminal.press("Enter")
    terminal.until("queued")


def test_moves_copies_and_quits(catalog: Catalog, tmp_path: Path) -> None:
    with Tmux(catalog.home.root, tmp_path) as terminal:
        terminal.until("LlamaForCausalLM")
        assert "1 Models" in terminal.screen
        terminal.press("2", "G", "Enter")
        terminal.until("of · layer 23: p 0.7636")
        terminal.press("h")
        terminal.until("of · layer 22:")
        terminal.press("Y")
        terminal.until("copied, also to the tmux buffer")
        assert terminal.run("show-buffer") == "retcon trace show 1"
        terminal.press("q", "4", "j", "b")
        terminal.until("Cancel")
        terminal.press("n", "q")
        terminal.until("left with 0")


def test_resize_during_paint(catalog: Catalog, tmp_path: Path) -> None:
    with Tmux(catalog.home.root, tmp_path, "ui", "traces/1") as terminal:
        terminal.until("The Eiffel Tower")
        for size in ((140, 40), (80, 24), (100, 30), (40, 10), (140, 40)):
            terminal.press("j", "k", "Enter")
            terminal.run("resize-window", "-x", str(size[0]), "-y", str(size[1]))
            terminal.press("q")
        terminal.until("│")
        terminal.until("starter@5e130e1388")
        assert len(terminal.screen.splitlines()) == 40
        terminal.press("q")
        terminal.until("left with 0")


def test_job_outlives_a_killed_app(tmp_path: Path, tiny_folder: Path) -> None:
    home = tmp_path / "home"
    with Tmux(home, tmp_path) as terminal:
        add_model(terminal, tiny_folder)
        os.kill(terminal.app, signal.SIGKILL)
        terminal.until("left with 137")
    assert ended(home) == "done"
    with Tmux(home, tmp_path, "ui", "jobs") as terminal:
        terminal.until("✓ done")
        terminal.press("1")
        terminal.until("LlamaForCausalLM")


def test_job_outlives_the_connection(tmp_path: Path, tiny_folder: Path) -> None:
    home = tmp_path / "home"
    with Tmux(home, tmp_path) as terminal:
        add_model(terminal, tiny_folder)
        app = terminal.app
        terminal.run("kill-server")  # SIGHUP to all its processes, as when a connection drops
        for _ in range(100):
            if not Path(f"/proc/{app}").exists():
                break
            time.sleep(0.1)
        assert not Path(f"/proc/{app}").exists()
    assert ended(home) == "done"


def test_compares_two_revisions_side_by_side(template_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template_home, home)
    from retcon.tests.helpers.command_line import Retcon

    retcon = Retcon(home)
    retcon("edit", "run", "tiny", "--prompt", "The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower",
           "--target", "Rome", "--method", "ft-l", "--layer", "1")  # fmt: skip
    with Tmux(home, tmp_path, "ui", "edits") as terminal:
        terminal.until("◆")
        terminal.press("j", "=")
        terminal.until("Compare revisions of tiny")
        terminal.until("The Eiffel Tower is located")
        terminal.press("Enter")
        terminal.until("✓ answered in")
        assert terminal.screen.count("0.0") >= 6
        terminal.press("Space", "x", "Enter")
        terminal.until("' x' --against")
        terminal.press("Escape")
        terminal.until_gone("Compare revisions of")
        terminal.press("q")
        terminal.until("left with 0")
