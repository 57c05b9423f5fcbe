"""A stop waits for the next checkpoint of the job before it sends a signal."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from retcon.engine.jobs import control
from retcon.engine.jobs.locks import job_lock_path
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog


def test_stop_waits_for_the_next_checkpoint(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    with catalog.write() as session:
        job_id = rows.create(session, "ask", {}, "cpu").id or 0
        process = hold(job_lock_path(catalog.home, job_id))
        rows.claim(session, job_id, "it", process.pid)
        rows.mark_running(session, job_id, "it")

    def reach_checkpoint() -> None:
        request = None
        while request is None:
            time.sleep(0.05)
            with catalog.read() as session:
                request = rows.get(session, job_id).stop_request
        time.sleep(1)
        with catalog.write() as session:
            rows.mark_stopped(session, job_id, "it")

    worker = threading.Thread(target=reach_checkpoint)
    worker.start()
    steps: list[str] = []
    job = control.stop(catalog, job_id, grace=60, on_step=steps.append)
    worker.join()
    assert job.state == "cancelled"
    assert steps == [f"Job {job_id} stops at its next checkpoint."]
    assert process.poll() is None, "no signal was sent"
