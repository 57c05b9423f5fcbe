"""A word to the user's own command when a job has ended: `on_finish` of the home's config."""

import json
import os
import subprocess

from ...store.config import read_config
from ...store.errors import InputError
from ...store.home import Home
from ...store.tables import Job
from .record import job_record


def give_notice(home: Home, job: Job) -> None:
    """Start the command with the job as JSON on its stdin, and do not wait for it. It never stops the caller.

    What it prints goes to the job's log. It is called by whoever wrote the job's end, so once for each.
    """
    try:
        command = read_config(home).on_finish
    except InputError:  # `submit` refuses it in words
        return
    if not command:
        return
    log = os.open(home.job_log(job.id or 0), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"RETCON_HOME": str(home.root)},
        )
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(json.dumps(job_record(job), default=str).encode())
    except OSError as error:  # no shell, no memory, or it did not want to read
        os.write(log, f"on_finish: {error}\n".encode())
    finally:
        os.close(log)
