"""A program in a pseudo-terminal: sends keys, counts and times its output. The tests of budgets use it."""

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
    """A program that runs in a pseudo-terminal. Nothing is drawn. The context kills the program at its end."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], size: tuple[int, int] = (80, 24)
    ) -> None:
        self._main, child = pty.openpty()
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment,
        )  # fmt: skip
        os.close(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._main)

    def press(self, keys: str) -> None:
        """Send keys."""
        os.write(self._main, keys.encode())

    def read(self, seconds: float) -> bytes:
        """All bytes that the program writes within this time."""
        return b"".join(self._iter_pieces(seconds))

    def _iter_pieces(self, seconds: float) -> Iterator[bytes]:
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            piece = self._read_piece(left)
            if piece is None:
                return
            yield piece

    def _read_piece(self, seconds: float) -> bytes | None:
        """Available bytes. Empty if the program writes none within the time, None if it has ended."""
        ready, _, _ = select.select([self._main], [], [], seconds)
        try:
            return os.read(self._main, 65536) if ready else b""
        except OSError:  # Linux raises it when no process has the other end open.
            return None

    def wait_for(self, text: bytes, seconds: float = 60.0) -> float:
        """Wait until the program writes a text. Returns the seconds since its start. Raises TimeoutError."""
        output = b""
        for piece in self._iter_pieces(seconds):
            output += piece
            if text in output:
                return time.perf_counter() - self._began
        raise TimeoutError(f"{text!r} is not in {len(output)} bytes, which end with {output[-400:]!r}")

    def wait_until_idle(self, seconds: float = 0.5, at_most: float = 20.0) -> None:
        """Wait until the program writes nothing for `seconds`."""
        until = time.perf_counter() + at_most
        while self.read(seconds) and time.perf_counter() < until:
            pass

    @property
    def memory(self) -> float:
        """Resident memory of the program in MB."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the program."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
