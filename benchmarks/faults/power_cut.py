"""Cut the power, or kill the process, at each system call that stores an artifact and commits its row.

Needs strace, which also records the calls of SQLite and of safetensors (which writes in Rust). For power cuts, the
calls drive a model of the disk (tests/helpers/disk_model.py). For kills, strace kills the process.
"""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retcon.store.catalog.artifacts import sha256_of
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.home import Home
from retcon.store.maintenance import verify
from retcon.tests.helpers.disk_model import Disk

_CALLS = "openat,creat,write,pwrite64,writev,ftruncate,truncate,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat"
_SYNCS = "fsync,fdatasync,msync,sync_file_range"
_LINE = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+)")
_FD = re.compile(r"^\d+<(.*?)>")


class NoStrace(Exception):
    """strace is installed, but the system does not let it trace."""


def run(_folder: Path) -> dict[str, Any]:
    """Cut and kill at each call."""
    return cut_at_every_call()


def cut_at_every_call(*, kills: int | None = None) -> dict[str, Any]:
    """Cut the power and kill at each call. `kills` limits the kills, evenly spread. Without strace: `skipped`."""
    if shutil.which("strace") is None:
        return {"skipped": "strace is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        lines = _record_calls(Path(folder) / "home", Path(folder) / "log")
        figures = _cut_power(Path(folder) / "home", lines)
        # strace counts each kind of call separately.
        counts: Counter[str] = Counter()
        moments = []
        for line in lines:
            if call := _LINE.match(line):
                counts[call[1]] += 1
                moments.append((call[1], counts[call[1]]))
        chosen = moments[:: max(1, len(moments) // kills)] if kills else moments
        results = [
            _kill_at(Path(folder) / f"killed{number}", *moment) for number, moment in enumerate(chosen)
        ]
    return figures | {
        "kills": sum(result.is_killed for result in results),
        "broken_after_kill": sum(not result.is_sound for result in results),
    }


@dataclass(frozen=True)
class _KillResult:
    """Whether the kill hit the process, and whether the catalog was sound and usable after it."""

    is_killed: bool
    is_sound: bool


def _start_child(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "retcon.benchmarks.faults.power_cut", str(home)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _run_under_strace(process: subprocess.Popen[str], *words: str) -> None:
    """Attach strace to the child and run it to its end. Raises NoStrace."""
    command = ["strace", "-f", "-y", "-s", "0", "-p", str(process.pid), *words]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None and process.stdin is not None
    if "attached" not in (line := tracer.stderr.readline()):
        process.kill()
        raise NoStrace(f"strace cannot attach to a process: {line.strip()}")
    process.stdin.write("\n")
    process.stdin.flush()
    process.communicate()
    tracer.communicate()


def _record_calls(home: Path, log: Path) -> list[str]:
    """The calls of one run, as lines of strace."""
    _run_under_strace(_start_child(home), "-e", f"trace={_CALLS},{_SYNCS}", "-o", str(log))
    return log.read_text().splitlines()


def _cut_power(home: Path, lines: list[str]) -> dict[str, Any]:
    """Cut the power after each call below the home. Counts all states, and those where a row points to other bytes."""
    disk = Disk(home / "artifacts")
    versions: dict[Path, int] = {}  # The version of a file is the number of writes to it.
    rows = {_artifact_path(home, digest): size for digest, size in _read_rows(home)}
    calls = states = broken = 0
    # Files that rows may name. A row can be on the disk as soon as its commit has begun.
    committed: dict[Path, int] = {}
    for line in lines:
        call = _LINE.match(line)
        if call is None or int(call[3]) < 0:
            continue
        if not _apply_call(disk, versions, call[1], call[2]):
            if "catalog.db-wal" in call[2] and call[1].startswith("pwrite"):
                committed = {path: versions[path] for path in rows if path in versions}
            elif str(home) not in call[2]:
                continue
        calls += 1
        for state in disk.states_after_cut():
            states += 1
            broken += any(state.get(path) != f"{version}" for path, version in committed.items())
    is_intact = all(
        path.stat().st_size == size and sha256_of(path) == path.name for path, size in rows.items()
    )
    return {
        "calls": calls,
        "states": states,
        "broken": broken,
        "committed": len(committed),
        "is_intact_at_end": is_intact,
    }


def _apply_call(disk: Disk, versions: dict[Path, int], call: str, arguments: str) -> bool:
    """Apply a call to the model of the disk. Returns False if no artifact is involved. The content is its version."""
    names = [Path(name) for name in re.findall(r'"([^"]*)"', arguments)]
    fd = _FD.match(arguments)
    paths = [path for path in (names or ([Path(fd[1])] if fd else [])) if path.is_relative_to(disk.root)]
    if not paths:
        return False
    if call in ("openat", "creat"):
        if "O_CREAT" not in arguments:
            return False
        disk.create(paths[0])
        versions.setdefault(paths[0], 0)
    elif call in ("write", "pwrite64", "writev", "ftruncate", "truncate"):
        versions[paths[0]] = versions.get(paths[0], 0) + 1
        disk.write(paths[0])
    elif call.startswith("rename"):
        disk.rename(paths[0], paths[1])
        versions[paths[1]] = versions.pop(paths[0], 0)
    elif call.startswith("mkdir"):
        disk.create(paths[0])
    elif call.startswith("unlink"):
        disk.remove(paths[0])
    else:
        disk.sync(paths[0], f"{versions.get(paths[0], 0)}")
    return True


def _kill_at(home: Path, call: str, number: int) -> _KillResult:
    """Kill a run at the `number`-th call of a kind. Then check the catalog and store again."""
    process = _start_child(home)
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    _run_under_strace(process, "-e", f"trace={call}", "-o", "/dev/null", "-e", inject)
    catalog = Catalog.open(Home(home))
    after_kill = verify.check(catalog)
    _store_artifacts(catalog)
    after_store = verify.check(catalog)
    catalog.close()
    return _KillResult(
        process.returncode == -signal.SIGKILL,
        after_kill.is_sound and not after_kill.damages and after_store.artifacts == 2,
    )


def _read_rows(home: Path) -> list[tuple[str, int]]:
    """Digest and size of each artifact's row."""
    connection = connect(Home(home).catalog)
    try:
        return list(connection.execute("SELECT sha256, size FROM artifact"))
    finally:
        connection.close()


def _artifact_path(home: Path, digest: str) -> Path:
    return home / "artifacts" / digest[:2] / digest


def main(home: str) -> None:
    """The child process: waits for strace, then stores the artifacts."""
    catalog = Catalog.open(Home(Path(home)))
    catalog.data_version()
    print("ready", flush=True)
    sys.stdin.readline()
    _store_artifacts(catalog)


def _store_artifacts(catalog: Catalog) -> None:
    """Store bytes, an array, and the same bytes again, each with its row."""
    for store in (
        lambda: catalog.artifacts.put_bytes(b"bytes"),
        lambda: catalog.artifacts.put_tensors({"array": np.ones(1000)}),
        lambda: catalog.artifacts.put_bytes(b"bytes"),
    ):
        artifact = store()
        with catalog.write(durable=True) as session:
            session.merge(artifact)


if __name__ == "__main__":
    main(sys.argv[1])
