"""Run a command typed after `:` and show its output as it arrives."""

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
from ...widgets.detail import Detail, one_line

_MAX_LINES = 5000
_DRAW_SECONDS = 0.1


class Output(ModalScreen[str]):
    """A screen that runs `retcon` with arguments and shows its output. When it closes, it returns a short summary."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,backspace", "leave", "back", tooltip="back; interrupts the command, not its job"),
        Binding("ctrl+k,K", "stop", "stop", tooltip="interrupt the command, like Ctrl-C"),
    ]

    def __init__(self, home: Home, words: Sequence[str]) -> None:
        super().__init__()
        self.home, self.words = home, tuple(words)
        self.cli_equivalent = shlex.join(["retcon", *words])
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[Text] = []
        self._last_draw = 0.0
        self.outcome = "running"

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(one_line(f"$ {self.cli_equivalent}", "green"))
            yield Detail()
            yield Static(Text("… running · q goes back", style="dim"), id="outcome")

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
            del self._lines[:-_MAX_LINES]
            if time.monotonic() - self._last_draw > _DRAW_SECONDS:
                self._last_draw = time.monotonic()
                self.app.call_from_thread(self._draw)
        code = self._process.wait()
        words = {0: "done", 130: "interrupted; its job keeps running"}.get(code, f"exit code {code}")
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
        # Stops only the command: its job runs in another process.
        self.action_stop()

    def action_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def action_leave(self) -> None:
        self.dismiss(self.outcome if self.outcome != "running" else "closed; its job keeps running")
