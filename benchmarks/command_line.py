"""`retcon` as processes on one home, as a user runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retcon.store.home import Home
from retcon.store.states import ENDED_STATES

RETCON = str(Path(sys.executable).with_name("retcon"))


class CommandLine:
    """Runs commands on the home `folder`. `environment` extends the environment of this process."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = Home(folder)
        self.environment = os.environ | {"RETCON_HOME": str(folder)} | (environment or {})

    def __call__(self, *words: object, **environment: str) -> str:
        """Run a command and return its stdout. Raises CalledProcessError if it fails."""
        command = [RETCON, *map(str, words)]
        settings = self.environment | environment
        return subprocess.run(command, env=settings, stdout=subprocess.PIPE, text=True, check=True).stdout

    def json(self, *words: object, **environment: str) -> Any:
        """Run a command with `--json` and return its document."""
        return json.loads(self(*words, "--json", **environment))

    def wait_for_job(
        self,
        job: int,
        on_poll: Callable[[dict[str, Any]], None] = lambda _record: None,
        *,
        seconds: float = 0.5,
    ) -> dict[str, Any]:
        """Poll a job until it ends and return its record. Raises RuntimeError if it is not done then."""
        while (record := self.json("job", "show", job))["state"] not in ENDED_STATES:
            on_poll(record)
            time.sleep(seconds)
        if record["state"] != "done":
            raise RuntimeError(f"job {job} is {record['state']}: {record['error']}")
        return dict(record)
