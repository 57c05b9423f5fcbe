"""Run the user's `on_finish` command when a job has ended."""

import json
import os
import subprocess
import tempfile

from ...store.catalog.tables import Job
from ...store.config import read_config
from ...store.errors import InputError
from ...store.home import Home
from .listing import build_job_record


def run_on_finish(home: Home, job: Job) -> None:
    """Start the `on_finish` command of the config with the job as JSON on stdin. Does not wait for it and never fails.

    Its output goes to the job's log. Call it once per job, from the process that wrote the job's final state.
    """
    try:
        command = read_config(home).on_finish
    except InputError:  # `submit` reports it
        return
    if not command:
        return
    log = os.open(home.job_log(job.id or 0), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # A file and no pipe: a long record would block in a pipe while the command does not read.
        with tempfile.TemporaryFile() as record:
            record.write(json.dumps(build_job_record(job), default=str).encode())
            record.seek(0)
            subprocess.Popen(
                ["sh", "-c", command],
                stdin=record,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"RETCON_HOME": str(home.root)},
            )
    except OSError as error:  # no shell, no memory, no disk space
        os.write(log, f"on_finish: {error}\n".encode())
    finally:
        os.close(log)
