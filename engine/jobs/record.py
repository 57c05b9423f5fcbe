"""A job's row as the JSON that scripts get, from the command line and from `on_finish`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...store.catalog.tables import Job
    from .listing import ListedJob

_FIELDS = (
    "id", "kind", "state", "stop_request", "priority", "pid", "device", "memory", "done", "total", "unit", "rate",
    "seconds_left", "activity", "nodes", "error", "error_kind", "spec", "attempt", "created", "started", "ended",
)  # fmt: skip


def job_record(job: "Job | ListedJob") -> dict[str, Any]:
    """Its fields, and the ids of what it made. Field names are part of the interface."""
    # A running job has begun its trace or sweep already; what else it makes is known at the end.
    begun = {name: job.checkpoint[name] for name in ("trace", "sweep") if name in job.checkpoint}
    return {name: getattr(job, name) for name in _FIELDS} | begun | job.result
