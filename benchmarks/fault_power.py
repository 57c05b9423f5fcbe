"""Cut the power, or kill the process, at every system call of storing an artifact and committing its row.

Needs strace, which records the calls of SQLite and of safetensors (which writes in Rust) as well. For power cuts, the
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


def cut_at_every_call(*, kills: int | None = None) -> dict[str, Any]:
    """Cut the power and kill at each call, at most `kills` times (evenly chosen). Returns `skipped` without strace."""
    if shutil.which("strace") is None:
        return {"skipped": "strace is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        lines = _recorded(Path(folder) / "home", Path(folder) / "log")
        power = _power(Path(folder) / "home", lines)
        # strace counts each kind of call separately.
        seen: Counter[str] = Counter()
        moments = []
        for line in lines:
            if call := _LINE.match(line):
                seen[call[1]] += 1
                moments.append((call[1], seen[call[1]]))
        chosen = moments[:: max(1, len(moments) // kills)] if kills else moments
        after = [
            _after_kill(Path(folder) / f"killed{number}", *moment) for number, moment in enumerate(chosen)
        ]
    return power | {
        "kills": sum(one.killed for one in after),
        "broken_after_kill": sum(not one.is_sound for one in after),
    }


@dataclass(frozen=True)
class _After:
    """Whether the kill hit the process, and whether the catalog was sound and usable after it."""

    killed: bool
    is_sound: bool


def _child(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "retcon.benchmarks.fault_power", str(home)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _traced(process: subprocess.Popen[str], *words: str) -> None:
    """Run the child to its end under strace."""
    tracer = subprocess.Popen(["strace", "-f", "-y", "-s", "0", "-p", str(process.pid), *words], stderr=subprocess.PIPE,
                              text=True)  # fmt: skip
    assert tracer.stderr is not None and process.stdin is not None
    if "attached" not in (said := tracer.stderr.readline()):
        process.kill()
        raise NoStrace(f"strace cannot attach to a process: {said.strip()}")
    process.stdin.write("\n")
    process.stdin.flush()
    process.communicate()
    tracer.communicate()


def _recorded(home: Path, log: Path) -> list[str]:
    """The recorded calls of one run."""
    _traced(_child(home), "-e", f"trace={_CALLS},{_SYNCS}", "-o", str(log))
    return log.read_text().splitlines()


def _power(home: Path, lines: list[str]) -> dict[str, Any]:
    """Cut the power after each call below the home. Counts all states, and those where a row points to other bytes."""
    disk = Disk(home / "artifacts")
    written: dict[Path, int] = {}  # version of each file: the number of writes to it
    rows = {_artifact_path(home, digest): size for digest, size in _rows(home)}
    calls = states = broken = 0
    # Files that rows may name. A row can be on the disk as soon as its commit has begun.
    final: dict[Path, int] = {}
    for line in lines:
        call = _LINE.match(line)
        if call is None or int(call[3]) < 0:
            continue
        if not _apply_call(disk, written, call[1], call[2]):
            if "catalog.db-wal" in call[2] and call[1].startswith("pwrite"):
                final = {path: written[path] for path in rows if path in written}
            elif str(home) not in call[2]:
                continue
        calls += 1
        for state in disk.after_a_cut():
            states += 1
            broken += any(state.get(path) != f"{version}" for path, version in final.items())
    sizes = all(path.stat().st_size == size and sha256_of(path) == path.name for path, size in rows.items())
    return {
        "calls": calls,
        "states": states,
        "broken": broken,
        "promised": len(final),
        "whole_at_the_end": sizes,
    }


def _apply_call(disk: Disk, written: dict[Path, int], call: str, arguments: str) -> bool:
    """Apply a call to the model of the disk. Returns False if no artifact is involved. The content is its version."""
    named = [Path(one) for one in re.findall(r'"([^"]*)"', arguments)]
    held = _FD.match(arguments)
    paths = [path for path in (named or ([Path(held[1])] if held else [])) if path.is_relative_to(disk.root)]
    if not paths:
        return False
    if call in ("openat", "creat"):
        if "O_CREAT" not in arguments:
            return False
        disk.create(paths[0])
        written.setdefault(paths[0], 0)
    elif call in ("write", "pwrite64", "writev", "ftruncate", "truncate"):
        written[paths[0]] = written.get(paths[0], 0) + 1
        disk.write(paths[0])
    elif call.startswith("rename"):
        disk.rename(paths[0], paths[1])
        written[paths[1]] = written.pop(paths[0], 0)
    elif call.startswith("mkdir"):
        disk.create(paths[0])
    elif call.startswith("unlink"):
        disk.remove(paths[0])
    else:
        disk.sync(paths[0], f"{written.get(paths[0], 0)}")
    return True


def _after_kill(home: Path, call: str, number: int) -> _After:
    """Kill a run at the `number`-th call of a kind, then check the catalog and store again."""
    process = _child(home)
    _traced(
        process, "-e", f"trace={call}", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}"
    )
    catalog = Catalog.open(Home(home))
    checked = verify.check(catalog)
    _store_all(catalog)
    again = verify.check(catalog)
    catalog.close()
    return _After(
        process.returncode == -signal.SIGKILL,
        checked.is_sound and not checked.damages and again.artifacts == 2,
    )


def _rows(home: Path) -> list[tuple[str, int]]:
    connection = connect(Home(home).catalog)
    try:
        return list(connection.execute("SELECT sha256, size FROM artifact"))
    finally:
        connection.close()


def _artifact_path(home: Path, digest: str) -> Path:
    return home / "artifacts" / digest[:2] / digest


def main(home: str) -> None:
    """The child process: stores bytes, arrays and known bytes, each with its row."""
    catalog = Catalog.open(Home(Path(home)))

    catalog.data_version()
    print("up", flush=True)
    sys.stdin.readline()
    _store_all(catalog)


def _store_all(catalog: Catalog) -> None:
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
