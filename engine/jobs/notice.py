"""A word to the user's own command when a job has ended: `on_finish` of the home's config."""

import json
import os
import subprocess
import tempfile

from ...store.catalog.tables import Job
from ...store.config import read_config
from ...store.errors import InputError
from ...store.home import Home
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
        # No pipe: a long record would wait in it for a command that reads late or never.
        with tempfile.TemporaryFile() as record:
            record.write(json.dumps(job_record(job), default=str).encode())
            record.seek(0)
            subprocess.Popen(
                ["sh", "-c", command],
                stdin=record,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"RETCON_HOME": str(home.root)},
            )
    except OSError as error:  # no shell, no memory, no room
        os.write(log, f"on_finish: {error}\n".encode())
    finally:
        os.close(log)
