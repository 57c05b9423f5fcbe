"""`retcon model`: models to trace and edit."""

import click
from sqlmodel import select

from ....store.catalog.tables import Model
from ....store.history import history
from ...actions.model import build_model_spec, count_removable_edits, remove_model
from ..follow import run_job
from ..options import JobOptions, job_options, json_option, new_group, open_catalog
from ..output import narrate, print_fields, print_json, print_list
from ..records import to_record

model = new_group("model")


@model.command()
@click.argument("source")
@click.option(
    "--name", default="", help="Name of the model in the catalog. Default: the last part of SOURCE."
)
@click.option("--revision", "commit", help="Branch, tag or commit on the hub. Default: the newest commit.")
@click.option(
    "--trust-remote-code", is_flag=True,
    help="Run Python code that comes with this model. The code can do anything.",
)  # fmt: skip
@job_options
def add(source: str, name: str, commit: str | None, trust_remote_code: bool, job_options: JobOptions) -> None:
    """Add the model at SOURCE: a hub id, a folder, a .gguf file, or `starter`."""
    catalog = open_catalog()
    spec = build_model_spec(catalog, source, name, commit, trust_remote_code=trust_remote_code)
    job = run_job(catalog, spec, job_options)
    with catalog.read() as session:
        added = history.find_model(session, spec.name)
    if job_options.as_json:
        print_json(to_record(added))
        return
    narrate(
        f"Added {added.name}: {added.architecture}, {added.anatomy['layers']} layers, "
        f"{added.parameters / 1e6:.0f} M parameters."
    )
    if "recovered" in job.result:
        narrate(
            f"It is an export of retcon. Its history was restored ({job.result['recovered']} revisions). "
            f"The weights of every revision were computed again and verified. The head is {job.result['revision']}."
        )


@model.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the models of the catalog."""
    with open_catalog().read() as session:
        models = session.exec(select(Model).order_by(Model.name)).all()
    print_list(
        "models",
        [to_record(one) for one in models],
        "name architecture layers parameters dtype head source",
        "No models yet. Add one: retcon model add starter",
        as_json=as_json,
        cut="source",
        layers=lambda one: one["anatomy"]["layers"],
        parameters=lambda one: f"{one['parameters'] / 1e6:.0f} M",
    )


@model.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the source and the anatomy of one model."""
    with open_catalog().read() as session:
        record = to_record(history.find_model(session, name))
    if as_json:
        print_json(record)
        return
    anatomy = record.pop("anatomy")
    print_fields([*record.items(), *((f"anatomy.{key}", value) for key, value in anatomy.items())])


@model.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Remove a model with its traces, covariances, edits and evaluations. This cannot be undone."""
    catalog = open_catalog()
    edits = count_removable_edits(catalog, name)
    question = (
        f"Remove {name}, its {edits} edits, traces, covariances and evaluations? This cannot be undone."
    )
    if not yes and not click.confirm(question, err=True):
        raise click.exceptions.Exit(1)
    remove_model(catalog, name)
    narrate(f"Removed {name}.")
