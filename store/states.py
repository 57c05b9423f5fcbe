"""The states of a job. Imports no tables: the app and the list of jobs start without SQLModel."""

from typing import Literal

JOB_STATES = ("queued", "waiting", "running", "done", "failed", "cancelled", "paused", "interrupted")
# A process has the job, or may claim it.
ALIVE_STATES = ("queued", "waiting", "running")
# No process has the job. All but `done` can be resumed.
ENDED_STATES = ("done", "failed", "cancelled", "paused", "interrupted")
STOPS = ("cancel", "pause")
Stop = Literal["cancel", "pause"]
