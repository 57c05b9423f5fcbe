"""Who wants a job to stop waits for its next checkpoint before anything harsher."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from retcon.engine.jobs import control
from retcon.engine.jobs.locks import job_lock_path
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog


def test_a_job_has_time_to_reach_its_checkpoint(
    catalog: Catalog, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    with catalog.write() as session:
        job_id = rows.create(session, "ask", {}, "cpu").id or 0
        process = hold(job_lock_path(catalog.home, job_id))
        rows.claim(session, job_id, "it", process.pid)
        rows.mark_running(session, job_id, "it")

    def reach_it() -> None:
        asked = None
        while asked is None:
            time.sleep(0.05)
            with catalog.read() as session:
                asked = rows.get(session, job_id).stop_request
        time.sleep(1)
        with catalog.write() as session:
            rows.mark_stopped(session, job_id, "it")

    going_on = threading.Thread(target=reach_it)
    going_on.start()
    said: list[str] = []
    found = control.stop(catalog, job_id, grace=60, on_step=said.append)
    going_on.join()
    assert found.state == "cancelled"
    assert said == [f"Job {job_id} stops at its next checkpoint."]
    assert process.poll() is None, "no signal was sent"
