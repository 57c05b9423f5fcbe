"""Submit a job and follow it: progress goes to stderr, and Ctrl-C detaches from the job."""

import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...engine.jobs import control
from ...engine.jobs.listing import ListedJob, build_job_record
from ...store.catalog.catalog import Catalog
from ..actions.jobs import resolve_device
from ..presentation.format import format_activity, format_duration
from ..presentation.text import sanitize
from ..presentation.wording import format_cost
from .options import JobOptions
from .output import narrate, print_json

if TYPE_CHECKING:
    from ...engine.jobs.specs import Spec
    from ...store.catalog.tables import Job

T = TypeVar("T", bound="Spec")
_LINE_SECONDS = 5.0
_BAR = 20


class JobFailed(click.ClickException):
    """The job did not end as done. The message is its error."""

    def __init__(self, job: "Job") -> None:
        super().__init__(sanitize(job.error or f"job {job.id} was {job.state}"))


class JobRefused(JobFailed):
    """The job failed because of its input."""

    exit_code = 2


def submit(catalog: Catalog, spec: "Spec", device: str | None) -> "Job":
    """Print warnings about the cost of a job and submit it.

    Raises:
        InputError: the device does not exist.
    """
    from ...engine.jobs.cost import estimate_cost

    device = resolve_device(device)
    cost = estimate_cost(catalog, spec, device)
    for warning in cost.warnings if cost else ():
        narrate(f"Warning: {warning}")
    return control.submit(catalog, spec, device)


def choose_place(catalog: Catalog, spec: T, options: JobOptions) -> tuple[T, str | None]:
    """The job with the threads of its Ray workers, and where it runs. With `--estimate` print its cost instead.

    Raises:
        click.exceptions.Exit: with `--estimate`, code 0.
        click.UsageError: options exclude each other.
        InputError: the address of the Ray cluster is wrong.
    """
    if options.on is None and options.threads is not None:
        raise click.UsageError("--threads sets the threads of Ray workers: it needs --on")
    if options.on is not None and options.estimate:
        raise click.UsageError("--estimate measures on this machine: omit --on")
    if options.estimate:
        print_estimate(catalog, spec, options.device, as_json=options.as_json)
        raise click.exceptions.Exit(0)
    if options.on is None:
        return spec, options.device
    threads: dict[str, Any] = {"threads": options.threads}
    return replace(spec, **threads), resolve_device(options.device, options.on)


def run_job(catalog: Catalog, spec: "Spec", options: JobOptions) -> "Job":
    """Submit a job and follow it to its end. With `--detach` print its id, or its row as JSON.

    Raises:
        click.exceptions.Exit: with `--estimate` or `--detach`, code 0.
        JobFailed: the job did not end as done.
        InputError, click.UsageError: see `choose_place`.
    """
    spec, device = choose_place(catalog, spec, options)
    job = submit(catalog, spec, device)
    if not options.detach:
        return follow(catalog, job)
    print_json(build_job_record(job)) if options.as_json else click.echo(job.id)
    raise click.exceptions.Exit(0)


def print_estimate(catalog: Catalog, spec: "Spec", device: str | None, *, as_json: bool) -> None:
    """Print what a job needs, without starting it. If no earlier job shows its time, measure some seconds of it."""
    from ...engine.jobs.cost import TimeEstimate, estimate_cost, estimate_time
    from ...engine.jobs.specs import PreflightSpec

    device = resolve_device(device)
    cost = estimate_cost(catalog, spec, device)
    assert cost is not None
    if not as_json:
        click.echo(format_cost(cost))
    time_known = estimate_time(catalog, spec, device)
    if time_known is None:
        narrate("No earlier job shows how long this takes: measuring some seconds of it.")
        fields = spec.as_dict()
        preflight = PreflightSpec(model=fields["model"], job_kind=spec.kind, job_spec=fields)
        result = follow(catalog, control.submit(catalog, preflight, device)).result
        time_known = TimeEstimate(result["seconds"], result["basis"])
    if as_json:
        print_json({"kind": spec.kind, "device": device} | asdict(cost) | asdict(time_known))
        return
    click.echo(f"time    about {format_duration(time_known.seconds)} ({time_known.basis})")


def follow(catalog: Catalog, job: "Job") -> "Job":
    """Follow a job to its end.

    Raises:
        JobFailed: the job did not end as done.
    """
    assert job.id is not None
    display = _ProgressLine() if sys.stderr.isatty() else _ProgressLog()
    try:
        ended = control.follow(catalog, job.id, display.show)
    except KeyboardInterrupt:
        display.end()
        narrate(
            f"Detached from job {job.id}. It is still running. "
            f"Follow it: retcon job watch {job.id}. Stop it: retcon job cancel {job.id}"
        )
        raise click.exceptions.Exit(130) from None
    display.end()
    if ended.state != "done":
        raise JobRefused(ended) if ended.error_kind == "input" else JobFailed(ended)
    return ended


def describe_progress(job: "Job | ListedJob") -> str:
    """The progress of a job in one line."""
    parts: list[Any] = []
    if job.total:
        filled = round(_BAR * min(1.0, job.done / job.total))
        parts.append("█" * filled + "░" * (_BAR - filled))
        parts.append(f"{100 * min(1.0, job.done / job.total):.0f} %")
    if job.total and job.rate:
        parts.append(f"{job.rate:.3g} {job.unit}/s")
    if job.total and job.seconds_left is not None:
        parts.append(f"{format_duration(job.seconds_left)} left")
    parts.append(sanitize(format_activity(job.activity, job.detail)) if job.activity else job.state)
    return "  ".join(parts)


class _ProgressLine:
    """Progress in one line that is redrawn, for a terminal."""

    def show(self, job: "Job") -> None:
        import shutil

        width = shutil.get_terminal_size().columns
        text = f"job {job.id} {job.kind}  {describe_progress(job)}"[: width - 1]
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class _ProgressLog:
    """Progress in a new line every few seconds, for a log or a pipe."""

    def __init__(self) -> None:
        self._at, self._last = 0.0, ""

    def show(self, job: "Job") -> None:
        is_new = job.activity != self._last
        if job.activity and (is_new or time.monotonic() - self._at > _LINE_SECONDS):
            if is_new or job.total:
                narrate(f"job {job.id} {job.kind}  {describe_progress(job)}")
            self._at, self._last = time.monotonic(), job.activity

    def end(self) -> None:
        pass
