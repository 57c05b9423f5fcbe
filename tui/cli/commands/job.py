"""`retcon job`: list, follow, cancel and resume jobs."""

import time
from typing import TYPE_CHECKING

import click

from ....engine.jobs import control
from ....engine.jobs.listing import ListedJob, build_job_record, list_newest_jobs
from ....engine.jobs.reap import reap
from ....store.catalog.catalog import Catalog
from ....store.errors import InputError
from ....store.states import ENDED_STATES, Stop
from ...actions.jobs import remove_jobs
from ...presentation.text import sanitize
from ...presentation.wording import describe_nodes
from ..follow import describe_progress, follow
from ..options import ROW_ID, combine, id_argument, json_option, new_group, open_catalog
from ..output import narrate, print_fields, print_json, print_table

if TYPE_CHECKING:
    from ....store.catalog.tables import Job

# Fields of a job's result to print in the list.
_RESULT_FIELDS = ("name", "trace", "sweep", "covariance", "revision", "evaluation", "verified", "folder")

job = new_group("job")


@job.command("list")
@click.option("--all", "everything", is_flag=True, help="List all jobs. Default: the newest 50.")
@json_option
def list_(everything: bool, as_json: bool) -> None:
    """List jobs, newest first."""
    catalog = open_catalog()
    reap(catalog)
    jobs = list_newest_jobs(catalog, None if everything else 50)
    if as_json:
        print_json({"jobs": [build_job_record(one) for one in jobs]})
        return
    print_table(
        ("id", "kind", "state", "device", "created", "progress"),
        ((one.id, one.kind, one.state, one.device, one.created, _format_progress(one)) for one in jobs),
        "No jobs yet.",
        cut="progress",
    )


def _load_job(catalog: Catalog, id: int) -> "Job":
    from ....store import jobs as job_rows  # not at the top: it loads SQLModel

    with catalog.read() as session:
        return job_rows.get(session, id)


def _format_progress(job: ListedJob) -> str:
    if job.error:
        return job.error
    if job.state in ENDED_STATES:
        return ", ".join(f"{key} {job.result[key]}" for key in _RESULT_FIELDS if key in job.result)
    return describe_progress(job)


@job.command()
@id_argument
@json_option
def show(id: int, as_json: bool) -> None:
    """Show one job."""
    catalog = open_catalog()
    reap(catalog)
    record = build_job_record(_load_job(catalog, id))
    if as_json:
        print_json(record)
        return
    nodes = describe_nodes(record.pop("nodes"))
    print_fields([*record.items(), *nodes])


@job.command()
@id_argument
@json_option
def watch(id: int, as_json: bool) -> None:
    """Follow a job to its end. Ctrl-C detaches from it; the job continues."""
    catalog = open_catalog()
    ended = follow(catalog, _load_job(catalog, id))
    print_json(build_job_record(ended)) if as_json else narrate(f"Job {id} is done.")


@job.command()
@id_argument
@click.option("-f", "--follow", "until_end", is_flag=True, help="Print new lines until the job ends.")
def log(id: int, until_end: bool) -> None:
    """Print the log of a job's process."""
    catalog = open_catalog()
    state = _load_job(catalog, id).state
    path = catalog.home.job_log(id)
    if not path.exists():
        raise InputError(f"job {id} has no log at {path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            for line in file:
                click.echo(sanitize(line.rstrip("\n")))
            if not until_end or state in ENDED_STATES:
                return
            time.sleep(0.3)
            reap(catalog)
            state = _load_job(catalog, id).state


_stop_options = combine(
    id_argument,
    json_option,
    click.option(
        "--detach", is_flag=True, help="Only request the stop: do not wait and do not kill the process."
    ),
    click.option(
        "--grace", type=click.FloatRange(0, min_open=True), default=control.STOP_GRACE_SECONDS, show_default=True,
        help="Seconds to reach a checkpoint, and again to exit after SIGTERM, before SIGKILL.",
    ),
)  # fmt: skip


@job.command()
@_stop_options
def cancel(id: int, grace: float, detach: bool, as_json: bool) -> None:
    """Stop a job at its next checkpoint, else by SIGTERM, else by SIGKILL. Its checkpoint is kept."""
    _stop(id, "cancel", grace, detach=detach, as_json=as_json)


@job.command()
@_stop_options
def pause(id: int, grace: float, detach: bool, as_json: bool) -> None:
    """Stop a job like `cancel` to free its device. `job resume` continues it."""
    _stop(id, "pause", grace, detach=detach, as_json=as_json)


def _stop(id: int, stop: Stop, grace: float, *, detach: bool, as_json: bool) -> None:
    catalog = open_catalog()
    row = (
        control.request_stop(catalog, id, stop) if detach else control.stop(catalog, id, stop, grace, narrate)
    )
    if as_json:
        print_json(build_job_record(row))
    elif row.state in ENDED_STATES:
        narrate(f"Job {id} is {row.state}.")
    else:
        narrate(f"Job {id} will stop at its next checkpoint.")


@job.command()
@id_argument
@click.argument("priority", type=click.IntRange(-1_000_000, 1_000_000))
@json_option
def priority(id: int, priority: int, as_json: bool) -> None:
    """Set the priority of a queued job. Higher priorities run first, then older jobs. The default is 0."""
    from ....store import jobs as job_rows  # not at the top: it loads SQLModel

    catalog = open_catalog()
    with catalog.write() as session:
        row = job_rows.set_priority(session, id, priority)
    print_json(build_job_record(row)) if as_json else narrate(f"Job {id} has priority {priority}.")


@job.command()
@id_argument
@click.option("--sooner/--later", default=True, show_default=True, help="Move it up or down the queue.")
@json_option
def move(id: int, sooner: bool, as_json: bool) -> None:
    """Move a queued job up or down by one place."""
    from ....store import jobs as job_rows  # not at the top: it loads SQLModel

    catalog = open_catalog()
    with catalog.write() as session:
        row = job_rows.move_in_queue(session, id, sooner=sooner)
    print_json(build_job_record(row)) if as_json else narrate(f"Job {id} has priority {row.priority}.")


@job.command()
@click.argument("id", type=ROW_ID, required=False)
@click.option(
    "--all", "everything", is_flag=True,
    help="Resume all interrupted jobs, for example after a reboot, without waiting.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Do not wait for the job.")
@json_option
def resume(id: int | None, everything: bool, detach: bool, as_json: bool) -> None:
    """Resume an interrupted, paused, failed or cancelled job from its checkpoint."""
    if (id is None) != everything:
        raise click.UsageError("give one job id, or --all")
    catalog = open_catalog()
    if id is None:
        ids = control.resume_all(catalog)
        message = f"Resumed {', '.join(f'job {one}' for one in ids)}." if ids else "No job is interrupted."
        print_json({"resumed": ids}) if as_json else narrate(message)
        return
    row = control.resume(catalog, id)
    if not detach:
        row = follow(catalog, row)
    print_json(build_job_record(row)) if as_json else narrate(f"Job {id} is {row.state}.")


@job.command()
@id_argument
def remove(id: int) -> None:
    """Remove the row and log of an ended job. Its results are kept."""
    remove_jobs(open_catalog(), [id])
    narrate(f"Removed job {id}.")
