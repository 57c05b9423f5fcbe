"""`retcon job`: what runs, what ran, and what to do about it."""

import time
from collections.abc import Callable

import click

from ....engine.jobs import control
from ....engine.jobs.listing import ListedJob, build_job_record, list_newest_jobs
from ....engine.jobs.reap import reap
from ....store.errors import InputError
from ....store.states import ENDED_STATES, Stop
from ...presentation.text import sanitize
from ...presentation.wording import describe_nodes
from ..follow import describe, follow
from ..options import ROW_ID, json_option, open_catalog
from ..output import narrate, print_fields, print_json, print_table

# What a job's `made` may name that a person would look up.
_MADE = ("name", "trace", "sweep", "covariance", "revision", "evaluation", "verified", "folder")


@click.group()
def job() -> None:
    """List, follow, stop and resume jobs."""


@job.command("list")
@click.option("--all", "everything", is_flag=True, help="Not only the newest 50.")
@json_option
def list_(everything: bool, as_json: bool) -> None:
    """Jobs, newest first."""
    catalog = open_catalog()
    reap(catalog)
    found = list_newest_jobs(catalog, None if everything else 50)
    if as_json:
        print_json({"jobs": [build_job_record(one) for one in found]})
        return
    print_table(
        ("id", "kind", "state", "device", "created", "progress"),
        ((one.id, one.kind, one.state, one.device, one.created, _progress(one)) for one in found),
        "No jobs yet.",
        cut="progress",
    )


def _progress(job: "ListedJob") -> str:
    if job.error:
        return job.error
    if job.state in ENDED_STATES:
        return ", ".join(f"{key} {job.result[key]}" for key in _MADE if key in job.result)
    return describe(job)


@job.command()
@click.argument("id", type=ROW_ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """One job."""
    from ....store import jobs as rows

    catalog = open_catalog()
    reap(catalog)
    with catalog.read() as session:
        found = rows.get(session, id)
    record = build_job_record(found)
    if as_json:
        print_json(record)
        return
    nodes = describe_nodes(record.pop("nodes"))
    print_fields([*record.items(), *nodes])


@job.command()
@click.argument("id", type=ROW_ID)
@json_option
def watch(id: int, as_json: bool) -> None:
    """Follow a job to its end; Ctrl-C lets go of it."""
    from ....store import jobs as rows

    catalog = open_catalog()
    with catalog.read() as session:
        found = rows.get(session, id)
    ended = follow(catalog, found)
    print_json(build_job_record(ended)) if as_json else narrate(f"Job {id} is done.")


@job.command()
@click.argument("id", type=ROW_ID)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job ends.")
def log(id: int, following: bool) -> None:
    """What a job's process wrote."""
    from ....store import jobs as rows

    catalog = open_catalog()
    with catalog.read() as session:
        state = rows.get(session, id).state
    path = catalog.home.job_log(id)
    if not path.exists():
        raise InputError(f"job {id} has no log at {path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            for line in file:
                click.echo(sanitize(line.rstrip("\n")))
            if not following or state in ENDED_STATES:
                return
            time.sleep(0.3)
            reap(catalog)
            with catalog.read() as session:
                state = rows.get(session, id).state


def _stop_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "--grace",
        type=click.FloatRange(0, min_open=True),
        default=control.STOP_GRACE_SECONDS,
        show_default=True,
        help="Seconds that it has to reach a checkpoint, then to go on SIGTERM, before it is killed.",
    )(command)
    command = click.option("--detach", is_flag=True, help="Only ask; do not wait for it, and kill nothing.")(
        command
    )
    return click.argument("id", type=ROW_ID)(json_option(command))


@job.command()
@_stop_options
def cancel(id: int, grace: float, detach: bool, as_json: bool) -> None:
    """Stop a job: at its next checkpoint, then by SIGTERM, then by SIGKILL. What is checkpointed stays."""
    _stop(id, "cancel", grace, detach=detach, as_json=as_json)


@job.command()
@_stop_options
def pause(id: int, grace: float, detach: bool, as_json: bool) -> None:
    """Stop a job as `cancel` does, so that its device is free; `job resume` lets it go on."""
    _stop(id, "pause", grace, detach=detach, as_json=as_json)


def _stop(id: int, stop: Stop, grace: float, *, detach: bool, as_json: bool) -> None:
    catalog = open_catalog()
    found = (
        control.request_stop(catalog, id, stop) if detach else control.stop(catalog, id, stop, grace, narrate)
    )
    if as_json:
        print_json(build_job_record(found))
    elif found.state in ENDED_STATES:
        narrate(f"Job {id} is {found.state}.")
    else:
        narrate(f"Job {id} stops at its next checkpoint.")


@job.command()
@click.argument("id", type=ROW_ID)
@click.argument("priority", type=click.IntRange(-1_000_000, 1_000_000))
@json_option
def priority(id: int, priority: int, as_json: bool) -> None:
    """Move a waiting job in line: higher priorities are served first, of equals the older one; the default is 0."""
    from ....store import jobs as rows

    catalog = open_catalog()
    with catalog.write() as session:
        found = rows.set_priority(session, id, priority)
    print_json(build_job_record(found)) if as_json else narrate(f"Job {id} has priority {priority}.")


@job.command()
@click.argument("id", type=ROW_ID)
@click.option("--sooner/--later", default=True, show_default=True, help="Up or down the line.")
@json_option
def move(id: int, sooner: bool, as_json: bool) -> None:
    """Move a waiting job one place in line."""
    from ....store import jobs as rows

    catalog = open_catalog()
    with catalog.write() as session:
        found = rows.move_in_queue(session, id, sooner=sooner)
    print_json(build_job_record(found)) if as_json else narrate(f"Job {id} has priority {found.priority}.")


@job.command()
@click.argument("id", type=ROW_ID, required=False)
@click.option(
    "--all", "everything", is_flag=True, help="All interrupted jobs, as after a reboot; does not wait."
)
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@json_option
def resume(id: int | None, everything: bool, detach: bool, as_json: bool) -> None:
    """Start an interrupted, paused, failed or cancelled job again, from its checkpoint."""
    if (id is None) != everything:
        raise click.UsageError("name one job, or --all")
    catalog = open_catalog()
    if id is None:
        ids = control.resume_all(catalog)
        told = f"Resumed {', '.join(f'job {one}' for one in ids)}." if ids else "No job is interrupted."
        print_json({"resumed": ids}) if as_json else narrate(told)
        return
    found = control.resume(catalog, id)
    if not detach:
        found = follow(catalog, found)
    print_json(build_job_record(found)) if as_json else narrate(f"Job {id} is {found.state}.")


@job.command()
@click.argument("id", type=ROW_ID)
def remove(id: int) -> None:
    """Remove an ended job's row and log; what it made stays."""
    from ....store import jobs as rows

    catalog = open_catalog()
    reap(catalog)
    with catalog.write() as session:
        found = rows.get(session, id)
        if found.state not in ENDED_STATES:
            raise InputError(f"job {id} is {found.state}; cancel it first: retcon job cancel {id}")
        session.delete(found)
    for path in catalog.home.logs.glob(f"job-{id}.*"):
        path.unlink(missing_ok=True)
    narrate(f"Removed job {id}.")
