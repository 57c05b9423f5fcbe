"""The rows of jobs: one process claims a job, and only that process writes."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import Session

from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.store.errors import InputError, LostOwnership, NotFound

WORKERS = "retcon.tests.helpers.workers"


@pytest.fixture
def job_id(catalog: Catalog) -> int:
    with catalog.write() as session:
        job = jobs.create(session, "trace", {"facts": 3}, "cuda:0", priority=2)
    assert job.id is not None
    return job.id


def read_job(catalog: Catalog, job_id: int) -> Job:
    with catalog.read() as session:
        return jobs.get(session, job_id)


def progress(session: Session, job_id: int, owner: str) -> None:
    jobs.save_progress(
        session,
        job_id,
        owner,
        done=3,
        total=12,
        unit="facts",
        rate=1.5,
        seconds_left=6,
        activity="tracing",
        detail="fact 3",
    )


def test_job_life_cycle(catalog: Catalog, job_id: int) -> None:
    job = read_job(catalog, job_id)
    assert (job.state, job.attempt, job.priority, job.device) == ("queued", 0, 2, "cuda:0")
    with catalog.write() as session:
        assert jobs.claim(session, job_id, "me", 77)
    job = read_job(catalog, job_id)
    assert (job.state, job.attempt, job.owner, job.pid) == ("waiting", 1, "me", 77)
    with catalog.write() as session:
        jobs.mark_running(session, job_id, "me")
        progress(session, job_id, "me")
        jobs.save_checkpoint(session, job_id, "me", {"position": 3})
    job = read_job(catalog, job_id)
    assert (job.state, job.done, job.total, job.unit, job.rate) == ("running", 3, 12, "facts", 1.5)
    assert (job.activity, job.detail) == ("tracing", "fact 3")
    assert job.checkpoint == {"position": 3}
    assert job.started is not None and job.heartbeat is not None and job.heartbeat >= job.started
    with catalog.write() as session:
        jobs.finish(session, job_id, "me", {"trace": 5})
    job = read_job(catalog, job_id)
    assert (job.state, job.result, job.seconds_left) == ("done", {"trace": 5}, 0)
    assert (job.activity, job.detail) == ("", "")
    assert job.ended is not None


def test_row_in_session_is_refreshed(catalog: Catalog) -> None:
    with catalog.write() as session:
        job = jobs.create(session, "trace", {}, "cpu")
        assert job.id is not None
        jobs.claim(session, job.id, "me", 1)
        assert job.state == "waiting"


def test_one_process_claims_a_job(catalog: Catalog, job_id: int) -> None:
    claimers = [
        subprocess.Popen(
            [sys.executable, "-m", WORKERS, "claim", str(catalog.home.root), str(job_id), f"owner{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(5)
    ]
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("\n")
        claimer.stdin.flush()
    answers = [claimer.communicate(timeout=60)[0].strip() for claimer in claimers]
    assert sorted(answers) == ["False"] * 4 + ["True"]
    job = read_job(catalog, job_id)
    assert job.owner == f"owner{answers.index('True')}"
    assert job.attempt == 1


OWNERS_WRITES: list[Callable[[Session, int, str], Any]] = [
    jobs.mark_running,
    progress,
    lambda session, job_id, owner: jobs.save_checkpoint(session, job_id, owner, {"late": True}),
    lambda session, job_id, owner: jobs.finish(session, job_id, owner, {"trace": 1}),
    lambda session, job_id, owner: jobs.fail(session, job_id, owner, "late", "failure"),
    jobs.mark_stopped,
    jobs.pause_owned,
]


@pytest.mark.parametrize("write", OWNERS_WRITES)
def test_former_owner_cannot_write(
    catalog: Catalog, job_id: int, write: Callable[[Session, int, str], Any]
) -> None:
    with catalog.write() as session:
        jobs.claim(session, job_id, "old", 1)
        if write is not jobs.mark_running:
            jobs.mark_running(session, job_id, "old")
        assert jobs.mark_interrupted(session, job_id, "old")
    for owner in (None, "new"):  # after an interruption, and after another process resumed it
        if owner is not None:
            with catalog.write() as session:
                jobs.requeue(session, job_id)
                jobs.claim(session, job_id, owner, 2)
        before = read_job(catalog, job_id).model_dump()
        with pytest.raises(LostOwnership, match=f"Job {job_id}"), catalog.write() as session:
            write(session, job_id, "old")
        assert read_job(catalog, job_id).model_dump() == before


def test_lost_ownership_rolls_back(catalog: Catalog, job_id: int) -> None:
    with catalog.write() as session:
        jobs.claim(session, job_id, "old", 1)
        jobs.mark_interrupted(session, job_id, "old")
    with pytest.raises(LostOwnership), catalog.write() as session:
        jobs.create(session, "result", {}, "cpu")
        jobs.save_checkpoint(session, job_id, "old", {"position": 1})
    with catalog.read() as session:
        assert len(jobs.list_jobs(session)) == 1


def test_cancel(catalog: Catalog, job_id: int) -> None:
    with catalog.write() as session:
        other = jobs.create(session, "trace", {}, "cpu")
        assert other.id is not None
        job = jobs.request_stop(session, other.id, "cancel")
        assert (job.state, job.stop_request) == ("cancelled", "cancel")
        assert not jobs.claim(session, other.id, "me", 1)
        jobs.claim(session, job_id, "me", 1)
        job = jobs.request_stop(session, job_id, "cancel")
        assert (job.state, job.stop_request) == ("waiting", "cancel")
        jobs.mark_running(session, job_id, "me")
        jobs.mark_stopped(session, job_id, "me")
        assert jobs.get(session, job_id).state == "cancelled"


def test_own_pause_keeps_a_cancel_request(catalog: Catalog, job_id: int) -> None:
    with catalog.write() as session:
        jobs.claim(session, job_id, "me", 1)
        jobs.mark_running(session, job_id, "me")
        jobs.pause_owned(session, job_id, "me")
    assert read_job(catalog, job_id).stop_request == "pause"
    with catalog.write() as session:
        jobs.request_stop(session, job_id, "cancel")
        jobs.pause_owned(session, job_id, "me")
    assert read_job(catalog, job_id).stop_request == "cancel"


def test_cancel_of_ended_job_does_nothing(catalog: Catalog, job_id: int) -> None:
    with catalog.write() as session:
        jobs.claim(session, job_id, "me", 1)
        jobs.finish(session, job_id, "me", {})
        job = jobs.request_stop(session, job_id, "cancel")
    assert (job.state, job.stop_request) == ("done", None)


def test_interrupt_compares_the_owner(catalog: Catalog, job_id: int) -> None:
    with catalog.write() as session:
        assert not jobs.mark_interrupted(session, job_id, "somebody")
        jobs.claim(session, job_id, "me", 1)
        assert not jobs.mark_interrupted(session, job_id, None)
        assert jobs.mark_interrupted(session, job_id, "me")
        assert not jobs.mark_interrupted(session, job_id, "me")
        never_claimed = jobs.create(session, "trace", {}, "cpu")
        assert never_claimed.id is not None
        assert jobs.mark_interrupted(session, never_claimed.id, None)
        assert never_claimed.state == "interrupted"


def test_resume_keeps_the_checkpoint_and_clears_the_error(catalog: Catalog, job_id: int) -> None:
    with catalog.write() as session:
        jobs.claim(session, job_id, "me", 1)
        jobs.mark_running(session, job_id, "me")
        progress(session, job_id, "me")
        jobs.save_checkpoint(session, job_id, "me", {"position": 3})
        jobs.fail(session, job_id, "me", "The disk is full.", "failure")
    job = read_job(catalog, job_id)
    assert (job.state, job.error, job.error_kind) == ("failed", "The disk is full.", "failure")
    with catalog.write() as session:
        job = jobs.requeue(session, job_id)
        assert (job.state, job.owner, job.pid, job.error, job.error_kind) == (
            "queued",
            None,
            None,
            None,
            None,
        )
        assert (job.checkpoint, job.done, job.attempt) == ({"position": 3}, 3, 1)
        assert (job.ended, job.stop_request) == (None, None)
        assert jobs.claim(session, job_id, "you", 2)
        assert jobs.get(session, job_id).attempt == 2
        with pytest.raises(InputError, match="is waiting"):
            jobs.requeue(session, job_id)


def test_lists(catalog: Catalog) -> None:
    with catalog.write() as session:
        ids = [jobs.create(session, "trace", {}, "cpu").id for _ in range(4)]
        assert ids[0] is not None
        jobs.claim(session, ids[0], "me", 1)
        assert [job.id for job in jobs.list_jobs(session)] == ids[::-1]
        assert [job.id for job in jobs.list_jobs(session, limit=2)] == [ids[3], ids[2]]
        assert [job.id for job in jobs.list_jobs(session, states=["waiting"])] == [ids[0]]
        assert jobs.list_jobs(session, states=[]) == []


def test_no_such_job(catalog: Catalog) -> None:
    with catalog.write() as session:
        for call in (
            lambda: jobs.get(session, 9),
            lambda: jobs.claim(session, 9, "me", 1),
            lambda: jobs.request_stop(session, 9, "pause"),
            lambda: jobs.requeue(session, 9),
            lambda: jobs.mark_interrupted(session, 9, None),
            lambda: jobs.mark_running(session, 9, "me"),
        ):
            with pytest.raises(NotFound, match="no job 9"):
                call()


def test_queued_job_moves_one_place(catalog: Catalog) -> None:
    def line() -> list[int | None]:
        with catalog.read() as session:
            return [job.id for job in jobs.list_queue(session)]

    with catalog.write() as session:
        a, b, c, d = (jobs.create(session, "trace", {}, "cpu", priority=place).id for place in (0, 0, 5, 0))
    assert line() == [c, a, b, d]
    for job, sooner, expected in (
        (d, True, [c, a, d, b]), (d, True, [c, d, a, b]), (d, True, [d, c, a, b]), (d, True, [d, c, a, b]),
        (d, False, [c, d, a, b]), (a, False, [c, d, b, a]), (a, False, [c, d, b, a]),
    ):  # fmt: skip
        with catalog.write() as session:
            jobs.move_in_queue(session, job or 0, sooner=sooner)
        assert line() == expected
    with catalog.write() as session:
        jobs.request_stop(session, a or 0, "cancel")
    with pytest.raises(InputError), catalog.write() as session:
        jobs.move_in_queue(session, a or 0, sooner=True)
