"""`retcon edit`: edit facts."""

from pathlib import Path
from typing import Any

import click

from ....engine.jobs.specs import EditSpec, ImportEditsSpec
from ....store.catalog.tables import Revision
from ....store.history import history
from ...actions.edit import REQUEST_OPTIONS, build_edit_spec
from ...actions.targets import resolve_target
from ...presentation.text import sanitize
from .. import options as opts
from ..follow import run_job
from ..output import narrate, print_json, print_table
from ..records import to_record
from .sweep import run as sweep

edit = opts.new_group("edit")


@edit.command()
@opts.target_argument
@click.option("--prompt", help="The text before the target, with the subject or {} in it.")
@click.option("--subject", help="The subject of the fact, as it is written in the prompt.")
@click.option("--target", "target_new", help="The new target: the text to predict after the prompt.")
@click.option(
    "--true", "target_true", help="The true target: the current answer. Evaluations compare with it."
)
@click.option(
    "--train-paraphrase", "train_paraphrases", multiple=True,
    help="A paraphrase of the prompt to train on, for methods that train. Can be repeated.",
)  # fmt: skip
@click.option(
    "--eval-paraphrase", "eval_paraphrases", multiple=True,
    help="A paraphrase of the prompt for the evaluation. Can be repeated.",
)  # fmt: skip
@click.option("--facts", "fact_set", help="Write every fact of this set that has a new target.")
@opts.edit_options("r-rome")
@click.option(
    "--covariance", type=opts.ROW_ID,
    help="Use this covariance. Default: the one of the layer with the most tokens.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(1), help="Number of requests to write at once. Default: all; for ROME one."
)
@opts.message_option
@opts.estimate_option
@opts.job_options
def run(fact_set: str | None, job_options: opts.JobOptions, **options: Any) -> None:
    """Write a fact or a set of facts into MODEL. The new revision becomes the head."""
    catalog = opts.open_catalog()
    request = {name: options.pop(name) for name in REQUEST_OPTIONS}
    spec = build_edit_spec(catalog, EditSpec(requests=[], **options), request, fact_set)
    job = run_job(catalog, spec, job_options)
    revision = resolve_target(catalog, f"{spec.model}@{job.result['revision']}").revision
    if job_options.as_json:
        print_json(to_record(revision))
    else:
        print_edit(spec.model, revision)


def print_edit(model: str, revision: Revision) -> None:
    """Print the probabilities before and after an edit, and the size of its delta."""
    narrate(f"Revision {revision.id} is the head of {model}: {sanitize(revision.message)}")
    rows = []
    for request, figures in zip(revision.requests, revision.statistics["requests"], strict=True):
        before, after = figures["before"], figures["after"]
        loss = figures["losses"][-1]["loss"]
        rows.append(
            (request["subject"], request["target_new"], f"{before['probability']:.4f}", f"{after['probability']:.4f}",
             "yes" if after["first_choice"] else "no", f"{loss:.3f} in {len(figures['losses'])}")
        )  # fmt: skip
    print_table(
        ("subject", "target", "p before", "p after", "first choice", "loss, steps"), rows, "", cut="subject"
    )
    for matrix, size in revision.statistics["delta"].items():
        click.echo(
            f"{matrix}: rank {size['rank']}, norm {100 * size['relative']:.2g} % of the matrix, "
            f"{100 * size['effective']:.4g} % of it remains after rounding"
        )
    click.echo(f"Roll back: retcon rollback {model} {revision.parent}    Evaluate: retcon eval run {model}")


@edit.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("model")
@opts.job_options
def import_(folder: Path, model: str, job_options: opts.JobOptions) -> None:
    """Apply the edits that `retcon export` wrote to DIR to MODEL. Its base must have the same weights."""
    catalog = opts.open_catalog()
    with catalog.read() as session:
        history.find_model(session, model)
    job = run_job(catalog, ImportEditsSpec(model=model, folder=str(folder.resolve())), job_options)
    with catalog.read() as session:
        target = history.find_model(session, model)
        imported = [history.find_revision(session, target, id) for id in job.result["imported"]]
    if job_options.as_json:
        print_json(job.result)
        return
    rows = ((one.id, one.kind, one.method, one.message) for one in imported)
    print_table(("revision", "kind", "method", "message"), rows, "No edits.", cut="message")
    narrate(
        f"Revision {job.result['revision']} is the head of {model}. All weights were computed again and verified."
    )


edit.add_command(sweep, "sweep")
