"""The rows of jobs: who may write what, and when.

    queued -> waiting -> running -> done | failed                    by the process that claimed it
    running -> waiting                                               by it, when it must wait for room on the disk
    queued, waiting, running -> cancelled | paused | interrupted     by it, or by anyone who finds it dead:
                                                                     as was asked of it, interrupted if nothing was
    failed, cancelled, paused, interrupted -> queued                 by a person who resumes it

A process claims a job with a token of its own. Each write after that compares the token inside the UPDATE: a
process that was taken for dead and wakes up again gets LostOwnership instead of writing over its successor.
"""

from collections.abc import Iterable
from typing import Any, Literal

from sqlalchemy import ColumnElement, case, update
from sqlmodel import Session, col, select

from .catalog.tables import Job, now
from .errors import InputError, LostOwnership, NotFound
from .states import Stop

_ALIVE = ("waiting", "running")
_RESUMABLE = ("failed", "cancelled", "paused", "interrupted")
# What becomes of a job whose process is gone.
_STOPPED = case(
    (col(Job.stop_request) == "cancel", "cancelled"),
    (col(Job.stop_request) == "pause", "paused"),
    else_="interrupted",
)


def create(session: Session, kind: str, spec: dict[str, Any], device: str, priority: int = 0) -> Job:
    """A new queued job, flushed, so that it has its id."""
    job = Job(kind=kind, spec=spec, device=device, priority=priority)
    session.add(job)
    session.flush()
    return job


def get(session: Session, job_id: int) -> Job:
    """The job as it is in the catalog now. NotFound if there is none."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise NotFound(f"There is no job {job_id}: `retcon job list` shows those there are.")
    return job


def list_jobs(session: Session, states: Iterable[str] | None = None, limit: int | None = None) -> list[Job]:
    """Jobs, newest first; all states if none are named."""
    query = select(Job).order_by(col(Job.id).desc())
    if states is not None:
        query = query.where(col(Job.state).in_(list(states)))
    if limit is not None:
        query = query.limit(limit)
    return list(session.exec(query))


def list_queue(session: Session) -> list[Job]:
    """The jobs that want a device and have none yet, in the order in which they are served."""
    query = select(Job).where(col(Job.state).in_(("queued", "waiting")))
    return list(session.exec(query.order_by(col(Job.priority).desc(), col(Job.id))))


def set_priority(session: Session, job_id: int, priority: int) -> Job:
    """Higher ones are served first; of equals the older one. InputError for a job that waits no more."""
    if not _change(session, job_id, [col(Job.state).in_(("queued", "waiting"))], priority=priority):
        raise InputError(
            f"Job {job_id} is {get(session, job_id).state}: only one that waits has a place in line."
        )
    return get(session, job_id)


def move_in_queue(session: Session, job_id: int, *, sooner: bool) -> Job:
    """Move a waiting job one place up or down the line; the first stays first, the last stays last.

    All that wait get priorities of their own for it, the last the lowest that was there. InputError for a job that
    waits no more.
    """
    line = list_queue(session)
    at = next((place for place, job in enumerate(line) if job.id == job_id), None)
    if at is None:
        return set_priority(session, job_id, 0)  # which says why not
    to = at - 1 if sooner else at + 1
    if not 0 <= to < len(line):
        return line[at]
    lowest = min(job.priority for job in line)
    line[at], line[to] = line[to], line[at]
    for place, job in enumerate(reversed(line)):
        set_priority(session, job.id or 0, lowest + place)
    return get(session, job_id)


def claim(session: Session, job_id: int, owner: str, pid: int) -> bool:
    """Take a queued job for the process `pid` with the token `owner`; False if another was first."""
    return _change(
        session,
        job_id,
        [col(Job.state) == "queued"],
        state="waiting",
        owner=owner,
        pid=pid,
        attempt=col(Job.attempt) + 1,
        heartbeat=now(),
    )


def mark_running(session: Session, job_id: int, owner: str) -> None:
    """The device is held and the work begins. Raises LostOwnership."""
    _owned(session, job_id, owner, ("waiting",), state="running", started=now(), heartbeat=now())


def mark_waiting(session: Session, job_id: int, owner: str, activity: str) -> None:
    """It has let go of its device and waits for what `activity` tells. Raises LostOwnership."""
    _owned(
        session, job_id, owner, _ALIVE, state="waiting", activity=activity, seconds_left=None, heartbeat=now()
    )


def save_progress(
    session: Session,
    job_id: int,
    owner: str,
    *,
    done: float,
    total: float | None,
    unit: str,
    rate: float | None,
    seconds_left: float | None,
    activity: str,
    memory: int | None = None,
) -> None:
    """How far the job is, in `unit`s and `unit`s per second, and the bytes it holds; its heartbeat.

    Raises LostOwnership.
    """
    _owned(
        session,
        job_id,
        owner,
        _ALIVE,
        done=done,
        total=total,
        unit=unit,
        rate=rate,
        seconds_left=seconds_left,
        activity=activity,
        memory=memory,
        heartbeat=now(),
    )


def save_nodes(session: Session, job_id: int, owner: str, nodes: dict[str, Any]) -> None:
    """Which nodes of a cluster work at it. Raises LostOwnership."""
    _owned(session, job_id, owner, _ALIVE, nodes=nodes, heartbeat=now())


def save_checkpoint(session: Session, job_id: int, owner: str, checkpoint: dict[str, Any]) -> None:
    """Where a resumed job goes on; in the transaction of the results that it counts. Raises LostOwnership."""
    _owned(session, job_id, owner, _ALIVE, checkpoint=checkpoint, heartbeat=now())


def finish(session: Session, job_id: int, owner: str, result: dict[str, Any]) -> None:
    """Done; `result` names the rows that came of it, {"trace": 3}. Raises LostOwnership."""
    ended = now()
    _owned(
        session,
        job_id,
        owner,
        _ALIVE,
        state="done",
        result=result,
        seconds_left=0.0,
        activity="",
        ended=ended,
    )


def fail(
    session: Session, job_id: int, owner: str, error: str, error_kind: Literal["input", "failure"]
) -> None:
    """Failed, with one sentence that says why. Raises LostOwnership."""
    _owned(
        session,
        job_id,
        owner,
        _ALIVE,
        state="failed",
        error=error,
        error_kind=error_kind,
        seconds_left=None,
        ended=now(),
    )


def mark_stopped(session: Session, job_id: int, owner: str) -> None:
    """The process has stopped: as it was asked to, or because this box goes down. Raises LostOwnership."""
    _owned(session, job_id, owner, _ALIVE, state=_STOPPED, seconds_left=None, ended=now())


def request_stop(session: Session, job_id: int, stop: Stop) -> Job:
    """Ask a job to stop at its next checkpoint; a queued one stops at once, an ended one stays."""
    state = "cancelled" if stop == "cancel" else "paused"
    if not _change(
        session, job_id, [col(Job.state) == "queued"], state=state, stop_request=stop, ended=now()
    ):
        _change(session, job_id, [col(Job.state).in_(_ALIVE)], stop_request=stop)
    return get(session, job_id)


def pause_owned(session: Session, job_id: int, owner: str) -> None:
    """The worker stops by itself, unless somebody has asked for a stop already. Raises LostOwnership."""
    if get(session, job_id).stop_request is None:
        _owned(session, job_id, owner, _ALIVE, stop_request="pause")


def mark_interrupted(session: Session, job_id: int, owner: str | None) -> bool:
    """Mark a job whose process was found dead; False if it has ended or has another owner by now.

    `owner` is the token in the row that was looked at (None: no process ever claimed it), so that a job which
    was resumed in between is not hit.
    """
    return _change(
        session,
        job_id,
        [col(Job.owner).is_(None) if owner is None else col(Job.owner) == owner,
         col(Job.state).in_(("queued", *_ALIVE))],
        state=_STOPPED,
        seconds_left=None,
        ended=now(),
    )  # fmt: skip


def requeue(session: Session, job_id: int) -> Job:
    """Make a job that ended, but not done, ready to be claimed again. InputError for any other.

    Its checkpoint and what it has made stay, so it goes on where it was; the old token no longer counts.
    """
    if not _change(
        session,
        job_id,
        [col(Job.state).in_(_RESUMABLE)],
        state="queued",
        owner=None,
        pid=None,
        stop_request=None,
        error=None,
        error_kind=None,
        activity="",
        rate=None,
        memory=None,
        nodes={},
        seconds_left=None,
        started=None,
        ended=None,
    ):
        state = get(session, job_id).state
        raise InputError(
            f"Job {job_id} is {state}: only a paused, interrupted, failed or cancelled one resumes."
        )
    return get(session, job_id)


def _owned(session: Session, job_id: int, owner: str, states: tuple[str, ...], **values: Any) -> None:
    """Write as the owner, or raise LostOwnership."""
    if not _change(session, job_id, [col(Job.owner) == owner, col(Job.state).in_(states)], **values):
        job = get(session, job_id)
        raise LostOwnership(
            f"Job {job_id} is {job.state} and was last claimed by pid {job.pid}: this process must stop, "
            "`retcon job show` tells what became of the job."
        )


def _change(session: Session, job_id: int, conditions: list[ColumnElement[bool]], **values: Any) -> bool:
    """One UPDATE if all conditions hold; whether it did. NotFound if there is no such job."""
    statement = update(Job).where(col(Job.id) == job_id, *conditions).values(**values)
    changed = session.exec(statement, execution_options={"synchronize_session": False}).rowcount
    # A row that the session holds is renewed from the table, rather than guessed at in Python.
    get(session, job_id)
    return bool(changed)
