"""`retcon job`: what runs, what ran, and what to do about it."""

import time

import click

from ...engine import jobs
from ...store import jobs as rows
from ...store.errors import InputError
from ...store.tables import ENDED_STATES, Job
from ..following import describe, follow
from ..options import ROW_ID, json_option, open_catalog
from ..output import narrate, print_fields, print_json, print_table
from ..plain import plain
from ..records import job_record

# What a job's `made` may name that a person would look up.
_MADE = ("name", "trace", "sweep", "covariance", "revision", "evaluation", "verified", "folder")


@click.group()
def job() -> None:
    """List, follow, cancel and resume jobs."""


@job.command("list")
@click.option("--all", "everything", is_flag=True, help="Not only the newest 50.")
@json_option
def list_(everything: bool, as_json: bool) -> None:
    """Jobs, newest first."""
    catalog = open_catalog()
    jobs.reap(catalog)
    with catalog.read() as session:
        found = rows.list_jobs(session, limit=None if everything else 50)
    if as_json:
        print_json({"jobs": [job_record(one) for one in found]})
        return
    print_table(
        ("id", "kind", "state", "device", "created", "progress"),
        ((one.id, one.kind, one.state, one.device, one.created, _progress(one)) for one in found),
        "No jobs yet.",
        cut="progress",
    )


def _progress(job: Job) -> str:
    if job.error:
        return job.error
    if job.state in ENDED_STATES:
        return ", ".join(f"{key} {job.made[key]}" for key in _MADE if key in job.made)
    return describe(job)


@job.command()
@click.argument("id", type=ROW_ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """One job."""
    catalog = open_catalog()
    jobs.reap(catalog)
    with catalog.read() as session:
        found = rows.get(session, id)
    record = job_record(found)
    print_json(record) if as_json else print_fields(list(record.items()))


@job.command()
@click.argument("id", type=ROW_ID)
@json_option
def watch(id: int, as_json: bool) -> None:
    """Follow a job to its end; Ctrl-C lets go of it."""
    catalog = open_catalog()
    with catalog.read() as session:
        found = rows.get(session, id)
    ended = follow(catalog, found)
    print_json(job_record(ended)) if as_json else narrate(f"Job {id} is done.")


@job.command()
@click.argument("id", type=ROW_ID)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job ends.")
def log(id: int, following: bool) -> None:
    """What a job's process wrote."""
    catalog = open_catalog()
    with catalog.read() as session:
        state = rows.get(session, id).state
    path = jobs.log_path(catalog.home, id)
    if not path.exists():
        raise InputError(f"job {id} has no log at {path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            for line in file:
                click.echo(plain(line.rstrip("\n")))
            if not following or state in ENDED_STATES:
                return
            time.sleep(0.3)
            jobs.reap(catalog)
            with catalog.read() as session:
                state = rows.get(session, id).state


@job.command()
@click.argument("id", type=ROW_ID)
@json_option
def cancel(id: int, as_json: bool) -> None:
    """Ask a job to stop at its next checkpoint."""
    found = jobs.cancel(open_catalog(), id)
    if as_json:
        print_json(job_record(found))
    elif found.state in ENDED_STATES:
        narrate(f"Job {id} is {found.state}.")
    else:
        narrate(f"Job {id} stops at its next checkpoint.")


@job.command()
@click.argument("id", type=ROW_ID)
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@json_option
def resume(id: int, detach: bool, as_json: bool) -> None:
    """Start an interrupted, failed or cancelled job again, from its checkpoint."""
    catalog = open_catalog()
    found = jobs.resume(catalog, id)
    if not detach:
        found = follow(catalog, found)
    print_json(job_record(found)) if as_json else narrate(f"Job {id} is {found.state}.")


@job.command()
@click.argument("id", type=ROW_ID)
def remove(id: int) -> None:
    """Remove an ended job's row and log; what it made stays."""
    catalog = open_catalog()
    jobs.reap(catalog)
    with catalog.write() as session:
        found = rows.get(session, id)
        if found.state not in ENDED_STATES:
            raise InputError(f"job {id} is {found.state}; cancel it first: retcon job cancel {id}")
        session.delete(found)
    for path in catalog.home.logs.glob(f"job-{id}.*"):
        path.unlink(missing_ok=True)
    narrate(f"Removed job {id}.")
