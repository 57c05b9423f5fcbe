"""The real program in tmux, for behavior that tests inside the process cannot see."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

_TRIES = 300
_NUMBERS = count()


class Tmux:
    """A separate tmux server with one window that runs the app."""

    def __init__(self, home: Path, folder: Path, *words: str) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        # Unique names, because a killed server may still exist when the next one starts.
        self._tmux = ("tmux", "-L", f"retcon-{os.getpid()}-{next(_NUMBERS)}")
        program = shlex.join([sys.executable, "-m", "retcon.tui", *words])
        self._command = (
            f"env RETCON_HOME={shlex.quote(str(home))} HOME={shlex.quote(str(folder))} {program}; "
            "echo left with $?; exec sleep 600"
        )

    def __enter__(self) -> Self:
        self.run("new-session", "-d", "-x", "80", "-y", "24", self._command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run((*self._tmux, "kill-server"), check=False, capture_output=True)

    def run(self, *words: str) -> str:
        """Run a tmux command; returns its output."""
        return subprocess.run((*self._tmux, *words), capture_output=True, text=True, check=True).stdout

    @property
    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def until(self, words: str) -> None:
        """Wait until the screen contains `words`."""
        for _ in range(_TRIES):
            if words in self.screen:
                return
            time.sleep(0.1)
        raise AssertionError(f"{words!r} never appeared:\n{self.screen}")

    def until_gone(self, words: str) -> None:
        """Wait until the screen no longer contains `words`."""
        for _ in range(_TRIES):
            if words not in self.screen:
                return
            time.sleep(0.1)
        raise AssertionError(f"{words!r} never disappeared:\n{self.screen}")

    @property
    def app(self) -> int:
        """Process id of the app, the child of the window's shell."""
        shell = self.run("list-panes", "-F", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(children[0])
