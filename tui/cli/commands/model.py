"""`retcon model`: what can be traced and edited."""

import re
import shutil
from pathlib import Path

import click
from sqlmodel import select

from ....engine.jobs.reap import reap
from ....engine.jobs.specs import ModelSpec
from ....store import jobs as rows
from ....store.catalog.tables import Model
from ....store.errors import InputError
from ....store.history import history
from ....store.states import ALIVE_STATES
from ...paths import model_source
from ..follow import run
from ..options import job_options, json_option, open_catalog
from ..output import narrate, print_fields, print_json, print_table
from ..records import model_record


@click.group()
def model() -> None:
    """Add, list, show and remove models."""


@model.command()
@click.argument("source")
@click.option("--name", help="What to call it here; by default the last part of SOURCE.")
@click.option("--revision", "commit", help="Branch, tag or commit on the hub; by default the newest commit.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python code that comes with this model. It can do anything.",
)
@job_options
def add(
    source: str, name: str | None, commit: str | None, trust_remote_code: bool,
    as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Add the model at SOURCE: a hub id, a folder, a .gguf file, or `starter`."""
    name = name or _default_name(source)
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise InputError(
            f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-'; give one with --name"
        )
    catalog = open_catalog()
    with catalog.read() as session:
        if session.exec(select(Model).where(Model.name == name)).first():
            raise InputError(f"there is a model named {name!r} already; choose another name with --name")
    spec = ModelSpec(model_source(source), name, commit, trust_remote_code)
    job = run(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        added = history.find_model(session, name)
    if as_json:
        print_json(model_record(added))
    else:
        narrate(
            f"Added {added.name}: {added.architecture}, {added.anatomy['layers']} layers, "
            f"{added.parameters / 1e6:.0f} M parameters."
        )
        if "recovered" in job.result:
            narrate(
                f"It is an export of retcon: its history was recovered ({job.result['recovered']} after the base), "
                f"every revision made anew and verified; its head is {job.result['revision']}."
            )


def _default_name(source: str) -> str:
    return Path(source.rstrip("/")).name.removesuffix(".gguf")


@model.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The models of this catalog."""
    with open_catalog().read() as session:
        models = session.exec(select(Model).order_by(Model.name)).all()
    if as_json:
        print_json({"models": [model_record(one) for one in models]})
        return
    print_table(
        ("name", "architecture", "layers", "parameters", "dtype", "head", "source"),
        (
            (
                m.name,
                m.architecture,
                m.anatomy["layers"],
                f"{m.parameters / 1e6:.0f} M",
                m.dtype,
                m.head,
                m.source,
            )
            for m in models
        ),
        "No models yet. Add one: retcon model add starter",
        cut="source",
    )


@model.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One model: where it came from, and its anatomy."""
    with open_catalog().read() as session:
        found = history.find_model(session, name)
    if as_json:
        print_json(model_record(found))
        return
    record = model_record(found)
    anatomy = record.pop("anatomy")
    print_fields([*record.items(), *((f"anatomy.{key}", value) for key, value in anatomy.items())])


@model.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Remove a model with its traces, covariances, edits and evaluations. This cannot be undone."""
    catalog = open_catalog()
    reap(catalog)
    with catalog.read() as session:
        found = history.find_model(session, name)
        revisions = history.list_revisions(session, found)
        edits = len(revisions) - 1
        busy = rows.list_jobs(session, ALIVE_STATES)
    if any(job.spec.get("model") == name for job in busy):
        raise InputError(f"a job works on {name} now; cancel it first (retcon job list)")
    if not yes and not click.confirm(
        f"Remove {name}, its {edits} edits and all that was measured on it, for good?", err=True
    ):
        raise click.exceptions.Exit(1)
    with catalog.write(durable=True) as session:
        session.delete(history.find_model(session, name))
    own = catalog.home.models / name
    if Path(found.path) == own:
        shutil.rmtree(own, ignore_errors=True)
    for revision in revisions:
        for unsent in catalog.home.outbox.glob(f"{revision.id}-*"):
            shutil.rmtree(unsent, ignore_errors=True)
    narrate(f"Removed {name}.")
