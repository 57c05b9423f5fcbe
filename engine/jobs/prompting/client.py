"""From the terminal's side: a process that keeps a model warm (see asking.py), and what it says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

from ....store.home import Home
from ..devices import devices


@dataclass(frozen=True)
class Question:
    """One prompt to several revisions: how many tokens to go on for, how many of the next tokens to tell."""

    prompt: str
    revisions: Sequence[str]
    tokens: int = 30
    top: int = 5


class Warm:
    """A running process with one model. It ends with this process, and by itself when nobody asks for long."""

    def __init__(self, home: Home, model: str, device: str | None = None) -> None:
        self.model = model
        self._asked = Lock()
        log = os.open(home.logs / "asking.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "retcon.engine.jobs.prompting.server", model, device or devices()[0]],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                start_new_session=True, env=os.environ | {"RETCON_HOME": str(home.root)},
            )  # fmt: skip
        finally:
            os.close(log)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, question: Question) -> Iterator[dict[str, Any]]:
        """What it says, as asking.py describes it, up to `done` or `error`. A second question waits for the first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asked:
            try:
                self._process.stdin.write(json.dumps(asdict(question)) + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                yield {"error": "its process has ended; ask again"}
                return
            for line in self._process.stdout:
                said: dict[str, Any] = json.loads(line)
                yield said
                if "done" in said or "error" in said:
                    return
            yield {"error": "its process has ended: see asking.log beside the jobs' logs"}

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
