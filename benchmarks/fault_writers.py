"""Many processes on one catalog: workers that write progress, and people who watch. None may meet a locked database."""

import json
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


def many_writers(
    root: Path, *, seconds: float, writers: int = 20, readers: int = 5, pause: float = 0.0
) -> dict[str, Any]:
    """Processes that write progress, each as fast as it can but for `pause`, and read, on a new catalog in `root`.

    Returns how many transactions there were, the longest that one took, and the errors by their text.
    """
    catalog = Catalog.open(Home(root))
    with catalog.write() as session:
        ids = [jobs.create(session, "trace", {}, "cpu").id for _ in range(writers)]
    catalog.close()
    roles = [("writer", str(id)) for id in ids] + [("reader", "0")] * readers
    command = [sys.executable, "-m", "retcon.benchmarks.fault_writers"]
    processes = [
        subprocess.Popen(
            [*command, role, str(root), id, str(seconds), str(pause)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for role, id in roles
    ]
    for process in processes:  # all are up before the first begins
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in processes]
    written, read = answers[:writers], answers[writers:]
    errors: Counter[str] = Counter()
    for answer in answers:
        errors.update(answer["errors"])
    return {
        "seconds": seconds,
        "writers": writers,
        "readers": readers,
        "writes": sum(one["done"] for one in written),
        "fewest_writes_of_one": min(one["done"] for one in written),
        "longest_write_seconds": max(one["longest"] for one in written),
        "reads": sum(one["done"] for one in read),
        "longest_read_seconds": max((one["longest"] for one in read), default=0.0),
        "locked": sum(count for text, count in errors.items() if "locked" in text),
        "errors": dict(errors),
        "integrity": _integrity(root),
        "progress_kept": all(one["done"] == kept for one, kept in zip(written, _progress(root), strict=True)),
    }


def _integrity(root: Path) -> str:
    connection = connect(Home(root).catalog)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def _progress(root: Path) -> list[float]:
    """How far each job is, by its row."""
    connection = connect(Home(root).catalog)
    try:
        return [done for (done,) in connection.execute("SELECT done FROM job ORDER BY id")]
    finally:
        connection.close()


def _writer(catalog: Catalog, id: int, number: int) -> None:
    owner = f"writer {id}"
    with catalog.write() as session:
        if number == 1:
            jobs.claim(session, id, owner, 1)
        jobs.save_progress(session, id, owner, done=number, total=None, unit="facts", rate=1.0, seconds_left=None,
                      activity="writing")  # fmt: skip


def _reader(catalog: Catalog, _id: int, _number: int) -> None:
    catalog.data_version()
    with catalog.read() as session:
        jobs.list_jobs(session, limit=50)


def main(role: str, root: str, id: str, seconds: str, pause: str) -> None:
    """One of the processes."""
    catalog = Catalog.open(Home(Path(root)), migrate=False)
    step = {"writer": _writer, "reader": _reader}[role]
    print("up", flush=True)
    sys.stdin.readline()
    until, done, longest = time.monotonic() + float(seconds), 0, 0.0
    errors: Counter[str] = Counter()
    while (began := time.monotonic()) < until:
        try:
            step(catalog, int(id), done + 1)
            done += 1
        except Exception as error:
            errors[f"{type(error).__name__}: {error}"] += 1
        longest = max(longest, time.monotonic() - began)
        time.sleep(float(pause))
    print(json.dumps({"done": done, "longest": longest, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
