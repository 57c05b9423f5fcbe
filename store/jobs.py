"""The rows of jobs: which process may write which columns, and when.

    queued -> waiting -> running -> done | failed                    by the process that claimed the job
    running -> waiting                                               by that process, while it waits for disk space
    queued, waiting, running -> cancelled | paused | interrupted     by that process, or by another one after its death:
                                                                     as requested, interrupted without a request
    failed, cancelled, paused, interrupted -> queued                 by a user who resumes the job

A process claims a job with a new token. Each later write compares the token inside the UPDATE. A process that was
declared dead and continues gets LostOwnership, and does not overwrite its successor.
"""

from collections.abc import Iterable
from typing import Any, Literal, NotRequired, TypedDict, Unpack

from sqlalchemy import ColumnElement, case, update
from sqlmodel import Session, col, select

from .catalog.tables import Job, now
from .errors import InputError, LostOwnership, NotFound
from .states import ALIVE_STATES, Stop

_ALIVE = ("waiting", "running")
_RESUMABLE = ("failed", "cancelled", "paused", "interrupted")
# Columns of an earlier attempt that a resumed job clears.
_CLEARED = (
    "owner",
    "pid",
    "stop_request",
    "error",
    "error_kind",
    "rate",
    "memory",
    "seconds_left",
    "started",
    "ended",
)
# The state of a job after the death of its process.
_STATE_AFTER_STOP = case(
    (col(Job.stop_request) == "cancel", "cancelled"),
    (col(Job.stop_request) == "pause", "paused"),
    else_="interrupted",
)


def create(session: Session, kind: str, spec: dict[str, Any], device: str, priority: int = 0) -> Job:
    """Add a queued job. Flushes: the row has an id."""
    job = Job(kind=kind, spec=spec, device=device, priority=priority)
    session.add(job)
    session.flush()
    return job


def get(session: Session, job_id: int) -> Job:
    """The current row of a job. Raises NotFound."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise NotFound(f"There is no job {job_id}: `retcon job list` lists them.")
    return job


def list_jobs(session: Session, states: Iterable[str] | None = None, limit: int | None = None) -> list[Job]:
    """Jobs, newest first; by default of all states."""
    query = select(Job).order_by(col(Job.id).desc())
    if states is not None:
        query = query.where(col(Job.state).in_(list(states)))
    if limit is not None:
        query = query.limit(limit)
    return list(session.exec(query))


def list_queue(session: Session) -> list[Job]:
    """The jobs that wait for a device, in the order in which they get one."""
    query = select(Job).where(col(Job.state).in_(("queued", "waiting")))
    return list(session.exec(query.order_by(col(Job.priority).desc(), col(Job.id))))


def set_priority(session: Session, job_id: int, priority: int) -> Job:
    """Set the priority of a queued job. Higher ones start first, of equals the older one. Raises InputError."""
    if not _change(session, job_id, [col(Job.state).in_(("queued", "waiting"))], priority=priority):
        raise InputError(f"Job {job_id} is {get(session, job_id).state}: only queued jobs have a priority.")
    return get(session, job_id)


def move_in_queue(session: Session, job_id: int, *, sooner: bool) -> Job:
    """Move a queued job one place up or down. The first cannot move up, the last cannot move down.

    All queued jobs get distinct priorities, from the lowest current one upwards. Raises InputError for other jobs.
    """
    line = list_queue(session)
    at = next((place for place, job in enumerate(line) if job.id == job_id), None)
    if at is None:
        return set_priority(session, job_id, 0)  # raises the InputError
    to = at - 1 if sooner else at + 1
    if not 0 <= to < len(line):
        return line[at]
    lowest = min(job.priority for job in line)
    line[at], line[to] = line[to], line[at]
    for place, job in enumerate(reversed(line)):
        set_priority(session, job.id or 0, lowest + place)
    return get(session, job_id)


def claim(session: Session, job_id: int, owner: str, pid: int) -> bool:
    """Claim a queued job for the process `pid` with the token `owner`. Returns False if another process has it."""
    values: dict[str, Any] = {"owner": owner, "pid": pid, "attempt": col(Job.attempt) + 1, "heartbeat": now()}
    return _change(session, job_id, [col(Job.state) == "queued"], state="waiting", **values)


def mark_running(session: Session, job_id: int, owner: str) -> None:
    """Mark a job as running, after its process has locked the device. Raises LostOwnership."""
    _owned(session, job_id, owner, ("waiting",), state="running", started=now(), heartbeat=now())


def mark_waiting(session: Session, job_id: int, owner: str, activity: str) -> None:
    """Mark a job as waiting, after its process has released the device. Raises LostOwnership."""
    values: dict[str, Any] = {"activity": activity, "detail": "", "seconds_left": None}
    _owned(session, job_id, owner, state="waiting", **values, heartbeat=now())


class ProgressColumns(TypedDict):
    """The progress in `unit`s, the rate in `unit`s per second, the memory in bytes."""

    done: float
    total: float | None
    unit: str
    rate: float | None
    seconds_left: float | None
    activity: str
    detail: NotRequired[str]
    memory: NotRequired[int | None]


def save_progress(session: Session, job_id: int, owner: str, **columns: Unpack[ProgressColumns]) -> None:
    """Save the progress of a job and its heartbeat. Raises LostOwnership."""
    values: dict[str, Any] = {"memory": None, "detail": "", **columns}
    _owned(session, job_id, owner, **values, heartbeat=now())


def save_nodes(session: Session, job_id: int, owner: str, nodes: dict[str, Any]) -> None:
    """Save the state of the cluster nodes that run the job. Raises LostOwnership."""
    _owned(session, job_id, owner, nodes=nodes, heartbeat=now())


def save_checkpoint(session: Session, job_id: int, owner: str, checkpoint: dict[str, Any]) -> None:
    """Save the checkpoint, in the transaction of the results that it counts. Raises LostOwnership."""
    _owned(session, job_id, owner, checkpoint=checkpoint, heartbeat=now())


def finish(session: Session, job_id: int, owner: str, result: dict[str, Any]) -> None:
    """Mark a job as done. `result` names its rows, {"trace": 3}. Raises LostOwnership."""
    values: dict[str, Any] = {"activity": "", "detail": "", "seconds_left": 0.0, "ended": now()}
    _owned(session, job_id, owner, state="done", result=result, **values)


def fail(
    session: Session, job_id: int, owner: str, error: str, error_kind: Literal["input", "failure"]
) -> None:
    """Mark a job as failed, with the error in one sentence. Raises LostOwnership."""
    values: dict[str, Any] = {"error": error, "error_kind": error_kind, "seconds_left": None, "ended": now()}
    _owned(session, job_id, owner, state="failed", **values)


def mark_stopped(session: Session, job_id: int, owner: str) -> None:
    """Mark a job as stopped: cancelled or paused as requested, otherwise interrupted. Raises LostOwnership."""
    _owned(session, job_id, owner, state=_STATE_AFTER_STOP, seconds_left=None, ended=now())


def request_stop(session: Session, job_id: int, stop: Stop) -> Job:
    """Request that a job stops at its next checkpoint. A queued job stops at once; an ended job does not change."""
    state = "cancelled" if stop == "cancel" else "paused"
    if not _change(
        session, job_id, [col(Job.state) == "queued"], state=state, stop_request=stop, ended=now()
    ):
        _change(session, job_id, [col(Job.state).in_(_ALIVE)], stop_request=stop)
    return get(session, job_id)


def pause_owned(session: Session, job_id: int, owner: str) -> None:
    """Request a pause from the worker itself, unless there is a stop request. Raises LostOwnership."""
    if get(session, job_id).stop_request is None:
        _owned(session, job_id, owner, stop_request="pause")


def mark_interrupted(session: Session, job_id: int, owner: str | None) -> bool:
    """Mark a job as interrupted after the death of its process. Returns False if it has ended or has another owner.

    `owner` is the token that the caller read (None if no process claimed the job): a resumed job has another one.
    """
    is_same = col(Job.owner).is_(None) if owner is None else col(Job.owner) == owner
    conditions = [is_same, col(Job.state).in_(ALIVE_STATES)]
    return _change(session, job_id, conditions, state=_STATE_AFTER_STOP, seconds_left=None, ended=now())


def requeue(session: Session, job_id: int) -> Job:
    """Queue a stopped or failed job again. Raises InputError for other jobs.

    Its checkpoint and its rows stay: the job resumes from there. The former token becomes invalid.
    """
    is_resumable = col(Job.state).in_(_RESUMABLE)
    values = dict.fromkeys(_CLEARED) | {"activity": "", "detail": "", "nodes": {}}
    if not _change(session, job_id, [is_resumable], state="queued", **values):
        state = get(session, job_id).state
        raise InputError(
            f"Job {job_id} is {state}: only a paused, interrupted, failed or cancelled job can be resumed."
        )
    return get(session, job_id)


def _owned(
    session: Session, job_id: int, owner: str, states: tuple[str, ...] = _ALIVE, **values: Any
) -> None:
    """Write as the owner, or raise LostOwnership."""
    if not _change(session, job_id, [col(Job.owner) == owner, col(Job.state).in_(states)], **values):
        job = get(session, job_id)
        raise LostOwnership(
            f"Job {job_id} is {job.state} and belongs to pid {job.pid}: this process must stop. "
            "`retcon job show` prints the state of the job."
        )


def _change(session: Session, job_id: int, conditions: list[ColumnElement[bool]], **values: Any) -> bool:
    """Update the row if all conditions hold. Returns whether they did. Raises NotFound."""
    statement = update(Job).where(col(Job.id) == job_id, *conditions).values(**values)
    changed = session.exec(statement, execution_options={"synchronize_session": False}).rowcount
    # Refresh the row in the session from the table.
    get(session, job_id)
    return bool(changed)
