"""Start a prompt server (see server.py), which keeps a model in memory, and send prompts to it."""

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
from ..devices import list_devices

_LOG = "prompt-server.log"


@dataclass(frozen=True)
class PromptRequest:
    """A prompt for several revisions: `tokens` to generate, `top` next tokens to return."""

    prompt: str
    revisions: Sequence[str]
    tokens: int = 30
    top: int = 5


class PromptClient:
    """A running prompt server with one model. It ends with this process, or after a long time without a request."""

    def __init__(self, home: Home, model: str, device: str | None = None) -> None:
        self.model = model
        self._lock = Lock()
        log = os.open(home.logs / _LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        server = [sys.executable, "-m", "retcon.engine.jobs.prompting.server", model]
        try:
            self._process = subprocess.Popen(
                [*server, device or list_devices()[0]],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                start_new_session=True, env=os.environ | {"RETCON_HOME": str(home.root)},
            )  # fmt: skip
        finally:
            os.close(log)

    @property
    def is_alive(self) -> bool:
        """Whether the server is running."""
        return self._process.poll() is None

    def send(self, request: PromptRequest) -> Iterator[dict[str, Any]]:
        """Yield the server's messages (see server.py) up to `done` or `error`. Requests run one after another."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(asdict(request)) + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                yield {"error": "the prompt server has ended; try again"}
                return
            for line in self._process.stdout:
                message: dict[str, Any] = json.loads(line)
                yield message
                if "done" in message or "error" in message:
                    return
            yield {"error": f"the prompt server has ended: see {_LOG} in the folder of job logs"}

    def close(self) -> None:
        """End the server."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
