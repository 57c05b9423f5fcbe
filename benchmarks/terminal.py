"""A program in a pseudo-terminal: keys in, bytes out, counted and timed. Also used by the tests of budgets."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

APP = (sys.executable, "-m", "retcon.tui")


class Terminal:
    """The program while it runs. `read` counts bytes; nothing is drawn anywhere."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], size: tuple[int, int] = (80, 24)
    ) -> None:
        self._main, child = pty.openpty()
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment,
        )  # fmt: skip
        os.close(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._main)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._main, keys.encode())

    def read(self, seconds: float) -> bytes:
        """All that comes within this time."""
        return b"".join(self._pieces(seconds))

    def _pieces(self, seconds: float) -> Iterator[bytes]:
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            piece = self._some(left)
            if piece is None:
                return
            yield piece

    def _some(self, seconds: float) -> bytes | None:
        """What is there; empty if nothing came, None if the program has ended."""
        ready, _, _ = select.select([self._main], [], [], seconds)
        try:
            return os.read(self._main, 65536) if ready else b""
        except OSError:  # what Linux says when nobody holds the other end any more
            return None

    def until(self, words: bytes, seconds: float = 60.0) -> float:
        """Wait for some words; the time since the program was started. Raises TimeoutError."""
        found = b""
        for piece in self._pieces(seconds):
            found += piece
            if words in found:
                return time.perf_counter() - self.began
        raise TimeoutError(f"{words!r} never came in {len(found)} bytes: {found[-400:]!r}")

    def quiet(self, seconds: float = 0.5, at_most: float = 20.0) -> None:
        """Wait until nothing came for so long."""
        until = time.perf_counter() + at_most
        while self.read(seconds) and time.perf_counter() < until:
            pass

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
