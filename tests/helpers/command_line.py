"""The command line in tests: `Retcon` calls it in the test's process, `RetconProcess` starts the installed script."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unittest import mock

import pytest

from retcon.engine.jobs import control
from retcon.store.home import Home

RETCON = Path(sys.executable).with_name("retcon")
# Test machines are small and shared.
PATIENCE = 120.0


@dataclass(frozen=True)
class Said:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The sentence of a refusal: the last line of stderr, and the only line with "Error: "."""
        assert "Traceback" not in self.err, self.err
        last = self.err.rstrip("\n").split("\n")[-1]
        assert last.startswith("Error: ") and self.err.count("Error: ") == 1, self.err
        assert self.out == "", self.out
        assert not steering(self.err), self.err
        return last


class Retcon:
    """`retcon` on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process without variables of the hub and of retcon, and with one thread."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RETCON_"))}
        own = {
            "RETCON_HOME": str(self.home),
            "RETCON_LOCKS": str(self.home.parent),  # other tests on this machine use their own
            "HF_HOME": str(self.home.parent / "hub"),
            "OMP_NUM_THREADS": "1",
        }
        return kept | own

    def start(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        """Start a command without waiting for it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [str(RETCON), *map(str, words)]
        return subprocess.Popen(command, text=True, env=self.environment, **pipes | options)

    def say(self, *words: object, timeout: float = PATIENCE, **environment: str) -> Said:
        """Call the console script's function; the jobs that it submits run here as well, to their end."""
        from retcon.tui.cli.main import main

        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["retcon", *map(str, words)]),
            mock.patch.object(sys, "stdin", io.StringIO()),
            mock.patch.dict(os.environ, self.environment | environment, clear=True),
            mock.patch.object(control, "start_worker", run_job_here),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            main()
        return Said(int(left.value.code or 0), out.getvalue(), err.getvalue())

    def __call__(self, *words: object, **environment: str) -> str:
        """The output of a command that must succeed and print no control characters."""
        said = self.say(*words, **environment)
        assert said.code == 0, said.err
        assert not steering(said.out + said.err), ascii(said.out + said.err)
        return said.out

    def json(self, *words: object, **environment: str) -> Any:
        """The document that a command with --json prints."""
        said = self.say(*words, "--json", **environment)
        assert said.code == 0, said.err
        return json.loads(said.out)

    def refused(self, *words: object, code: int = 2, **environment: str) -> str:
        """The sentence of a command that must fail without changing the catalog."""
        before = self.rows()
        said = self.say(*words, **environment)
        assert said.code == code, said
        assert self.rows() == before
        return said.sentence

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of the catalog by table, without jobs. Empty without a catalog."""
        if not (self.home / "catalog.db").is_file():
            return {}
        connection = sqlite3.connect(f"{(self.home / 'catalog.db').as_uri()}?mode=ro", uri=True)
        try:
            tables = [
                row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            kept = [table for table in tables if table not in ("job", "sqlite_sequence")]
            connection.row_factory = sqlite3.Row
            return {
                table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in kept
            }
        finally:
            connection.close()

    def children(self, table: str, parent: str, id: int) -> list[dict[str, Any]]:
        """The rows of a table whose column `parent` holds `id`, without that column and their own id."""
        rows = [row for row in self.rows()[table] if row[parent] == id]
        assert rows
        return [{name: value for name, value in row.items() if name not in ("id", parent)} for row in rows]

    def job(self, id: int) -> dict[str, Any]:
        """`job show --json`."""
        found: dict[str, Any] = self.json("job", "show", id)
        return found

    def wait_for(self, id: int, *states: str) -> dict[str, Any]:
        """Wait until the job is in one of these states. Returns its record."""
        return wait_for(lambda: Retcon(self.home).job(id), lambda job: job["state"] in states)

    @property
    def process(self) -> "RetconProcess":
        """The installed command line on the same home: its jobs are processes, which a test can kill."""
        return RetconProcess(self.home)

    def copy(self, home: Path) -> Self:
        """The command line on a copy of the home."""
        shutil.copytree(self.home, home)
        return type(self)(home)


class RetconProcess(Retcon):
    """The installed script in a new process: for tests of processes, signals, kills and encodings."""

    def say(self, *words: object, timeout: float = PATIENCE, **environment: str) -> Said:
        """Run a command to its end, whatever that is."""
        done = subprocess.run(
            [str(RETCON), *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment | environment,
            timeout=timeout,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)


def run_job_here(home: Home, job_id: int, lock: int) -> None:
    """Stand in for `control.start_worker`: run the worker's function in this process, its output in the job's log."""
    from retcon.engine.jobs.worker import __main__ as worker

    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o077)
    environment = control.QUIET_ENVIRONMENT | os.environ | {"RETCON_HOME": str(home.root)}
    try:
        with (
            home.job_log(job_id).open("a", encoding="utf-8") as log,
            mock.patch.dict(os.environ, environment),
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            worker.main(job_id, os.dup(lock))
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.umask(mask)


def wait_for(read: Callable[[], Any], is_final: Callable[[Any], object], seconds: float = PATIENCE) -> Any:
    """Call `read` until `is_final` accepts its result, which is returned."""
    until = time.monotonic() + seconds
    while True:
        value = read()
        if is_final(value):
            return value
        assert time.monotonic() < until, f"still {value!r} after {seconds} s"
        time.sleep(0.1)


def steering(text: str) -> list[str]:
    """The control characters of a text, which a terminal would execute."""
    return [char for char in text if unicodedata.category(char) in ("Cc", "Cf") and char != "\n"]


def write_facts(path: Path, facts: Sequence[dict[str, Any]]) -> Path:
    """Write a file of plain fact records."""
    path.write_text(json.dumps(list(facts)), encoding="utf-8")
    return path


# Settings for the tiny model as published flat JSON, without the layers.
FIELD = {
    "fact_token": "subject_last",
    "v_num_grad_steps": 4,
    "v_lr": 0.5,
    "v_loss_layer": 3,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 4,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "context_template_length_params": [[5, 10], [10, 10]],
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100000,
    "mom2_dtype": "float32",
}
