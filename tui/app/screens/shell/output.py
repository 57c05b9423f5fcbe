"""A command that was typed after `:`, and what it prints, as it prints it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from .....store.home import Home
from ....presentation.text import sanitize
from ...widgets.detail import Detail

_MOST_LINES = 5000
_DRAW_SECONDS = 0.1


class Output(ModalScreen[str]):
    """Runs `retcon` with these words; dismissed with what came of it, in some words."""

    heading = "A command's output"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "q,escape,backspace", "leave", "back", tooltip="back; a command that still runs is let go of"
        ),
        Binding("ctrl+k,K", "stop", "stop", tooltip="interrupt it, as Ctrl-C does"),
    ]

    def __init__(self, home: Home, words: Sequence[str]) -> None:
        super().__init__()
        self.home, self.words = home, tuple(words)
        self.cli_equivalent = shlex.join(["retcon", *words])
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[Text] = []
        self._drawn = 0.0
        self.outcome = "runs"

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(
                Text(f"$ {sanitize(self.cli_equivalent)}", style="green", no_wrap=True, overflow="ellipsis")
            )
            yield Detail()
            yield Static(Text("… runs · q leaves it", style="dim"), id="outcome")

    def on_mount(self) -> None:
        self.query_one(Detail).focus()
        self._run(max(20, self.size.width - 6))

    @work(thread=True, group="output", exit_on_error=False)
    def _run(self, width: int) -> None:
        started = time.monotonic()
        environment = os.environ | {
            "RETCON_HOME": str(self.home.root), "COLUMNS": str(width), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "retcon.tui", *self.words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
            env=environment,
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(Text(sanitize(line.rstrip("\n"))))
            del self._lines[:-_MOST_LINES]
            if time.monotonic() - self._drawn > _DRAW_SECONDS:
                self._drawn = time.monotonic()
                self.app.call_from_thread(self._draw)
        code = self._process.wait()
        words = {0: "done", 130: "interrupted; a job that it started goes on"}.get(code, f"exit code {code}")
        self.outcome = f"{'✓' if code == 0 else '–' if code == 130 else '✗'} {words}"
        self.app.call_from_thread(self._ended, time.monotonic() - started)

    def _draw(self) -> None:
        if self.is_attached:
            detail = self.query_one(Detail)
            at_end = detail.scroll_y >= detail.max_scroll_y
            detail.show(self._lines)
            if at_end and self._process is not None and self._process.poll() is None:
                detail.scroll_end(animate=False)

    def _ended(self, seconds: float) -> None:
        self._draw()
        if self.is_attached:
            style = "" if self.outcome.startswith("✓") else "bold red"
            self.query_one("#outcome", Static).update(
                Text(f"{self.outcome} · {seconds:.1f} s · q goes back", style=style)
            )

    def on_unmount(self) -> None:
        # Nobody reads on. The command follows its job; the job is a process of its own, and does not mind.
        self.action_stop()

    def action_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def action_leave(self) -> None:
        self.dismiss(self.outcome if self.outcome != "runs" else "left; a job that it started goes on")
