"""The states of a job, without the tables: the app and the list of jobs start without SQLModel."""

from typing import Literal

JOB_STATES = ("queued", "waiting", "running", "done", "failed", "cancelled", "paused", "interrupted")
# It may still change by itself.
ALIVE_STATES = ("queued", "waiting", "running")
# No process has the job any more; all but `done` can be resumed.
ENDED_STATES = ("done", "failed", "cancelled", "paused", "interrupted")
STOPS = ("cancel", "pause")
Stop = Literal["cancel", "pause"]
