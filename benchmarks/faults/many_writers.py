"""Many processes on one catalog: workers that write their progress, and readers. No error may occur."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.home import Home


def run(folder: Path) -> dict[str, Any]:
    """Write and read for SECONDS."""
    return measure_writers(folder, seconds=float(os.environ.get("SECONDS", "60")))


def measure_writers(root: Path, *, seconds: float, writers: int = 20, readers: int = 5) -> dict[str, Any]:
    """Start processes that write progress and read rows without a pause, on a new catalog in `root`.

    Returns counts and the longest duration of transactions, the errors by text, and whether each row holds the last
    progress of its writer (`progress_matches`).
    """
    catalog = Catalog.open(Home(root))
    with catalog.write() as session:
        ids = [jobs.create(session, "trace", {}, "cpu").id for _ in range(writers)]
    catalog.close()
    roles = [("writer", str(id)) for id in ids] + [("reader", "0")] * readers
    command = [sys.executable, "-m", "retcon.benchmarks.faults.many_writers"]
    processes = [
        subprocess.Popen(
            [*command, role, str(root), id, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for role, id in roles
    ]
    for process in processes:  # All processes are ready before the first one begins.
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [json.loads(process.communicate()[0]) for process in processes]
    writes, reads = counts[:writers], counts[writers:]
    errors: Counter[str] = Counter()
    for count in counts:
        errors.update(count["errors"])
    integrity, progress = _read_catalog(root)
    return {
        "seconds": seconds,
        "writers": writers,
        "readers": readers,
        "writes": sum(count["done"] for count in writes),
        "fewest_writes_per_writer": min(count["done"] for count in writes),
        "longest_write_seconds": max(count["longest"] for count in writes),
        "reads": sum(count["done"] for count in reads),
        "longest_read_seconds": max((count["longest"] for count in reads), default=0.0),
        "locked": sum(count for text, count in errors.items() if "locked" in text),
        "errors": dict(errors),
        "integrity": integrity,
        "progress_matches": [count["done"] for count in writes] == progress,
    }


def _read_catalog(root: Path) -> tuple[str, list[float]]:
    """The result of SQLite's integrity check, and the progress in the row of each job."""
    connection = connect(Home(root).catalog)
    try:
        integrity = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
        return integrity, [done for (done,) in connection.execute("SELECT done FROM job ORDER BY id")]
    finally:
        connection.close()


def _write_progress(catalog: Catalog, id: int, number: int) -> None:
    owner = f"writer {id}"
    with catalog.write() as session:
        if number == 1:
            jobs.claim(session, id, owner, 1)
        jobs.save_progress(session, id, owner, done=number, total=None, unit="facts", rate=1.0, seconds_left=None,
                           activity="writing")  # fmt: skip


def _read_jobs(catalog: Catalog, _id: int, _number: int) -> None:
    catalog.data_version()
    with catalog.read() as session:
        jobs.list_jobs(session, limit=50)


def main(role: str, root: str, id: str, seconds: str) -> None:
    """One of the processes. Prints its counts as JSON. It takes at least one step, on a busy machine too."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    step = {"writer": _write_progress, "reader": _read_jobs}[role]
    print("ready", flush=True)
    sys.stdin.readline()
    until, done, longest = time.monotonic() + float(seconds), 0, 0.0
    errors: Counter[str] = Counter()
    while True:
        began = time.monotonic()
        try:
            step(catalog, int(id), done + 1)
            done += 1
        except Exception as error:
            errors[f"{type(error).__name__}: {error}"] += 1
        longest = max(longest, time.monotonic() - began)
        if time.monotonic() >= until:
            break
    print(json.dumps({"done": done, "longest": longest, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
