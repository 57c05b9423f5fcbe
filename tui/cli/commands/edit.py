"""`retcon edit`: rewrite facts."""

from pathlib import Path
from typing import Any

import click

from ....engine.jobs.settings import METHODS, check_layers, check_method, settings_of
from ....engine.jobs.specs import EditSpec, ImportEditsSpec
from ....store.catalog.tables import Revision
from ....store.errors import InputError
from ....store.facts import sets as fact_sets
from ....store.history import history
from ...presentation.text import sanitize
from ..follow import estimate as tell_cost
from ..follow import run as run_job
from ..options import ROW_ID, SEED, Layers, estimate_option, job_options, open_catalog
from ..output import narrate, print_json, print_table
from ..records import fact_request, revision_record
from .sweep import run as sweep


@click.group()
def edit() -> None:
    """Rewrite facts; each edit makes a revision."""


@edit.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.option("--prompt", help="The words up to the answer, with the subject (or {}) in them.")
@click.option("--subject", help="Who or what the fact is about.")
@click.option("--target", "target_new", help="What the model shall say.")
@click.option("--true", "target_true", help="What it says now; evaluations compare with it.")
@click.option(
    "--wording",
    "wordings",
    multiple=True,
    help="The same fact in other words up to the answer, for methods that train; may be repeated.",
)
@click.option(
    "--paraphrase",
    "paraphrases",
    multiple=True,
    help="The same question in other words, for the evaluation; may be repeated.",
)
@click.option("--facts", "fact_set", help="Write every fact of this set that has a new target.")
@click.option("--method", default="r-rome", show_default=True, help=f"{', '.join(METHODS)}.")
@click.option("--layers", "--layer", type=Layers(), help="5 or 3-8; by default the model's preset.")
@click.option(
    "--hparams", "hparams_file", type=click.Path(path_type=Path), help="Settings in the field's JSON."
)
@click.option(
    "--covariance",
    type=ROW_ID,
    help="Use this covariance of the catalog; by default the largest of the layer.",
)
@click.option(
    "--texts",
    default="shipped",
    show_default=True,
    help="Texts for a covariance, if the catalog has none for the layer.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Requests written at once, batch after batch; by default all, or one for ROME.",
)
@click.option("--seed", type=SEED, default=1, show_default=True)
@click.option("-m", "--message", default="", help="Why; shown in the history.")
@estimate_option
@job_options
def run(
    target: str, prompt: str | None, subject: str | None, target_new: str | None, target_true: str | None,
    wordings: tuple[str, ...], paraphrases: tuple[str, ...], fact_set: str | None, method: str,
    layers: list[int] | None, hparams_file: Path | None, covariance: int | None, texts: str, batch: int | None,
    seed: int, message: str, estimate: bool, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Write a fact, or a set of facts, into MODEL (at REV): a new revision, and the model's new head."""
    if (fact_set is None) == (prompt is None):
        raise click.UsageError("give either --facts SET, or --prompt, --subject and --target")
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    check_method(method)
    with catalog.read() as session:
        model = history.find_model(session, name)
        parent = history.find_revision(session, model, revision)
        if fact_set is not None:
            found = fact_sets.list_facts(session, fact_sets.find_fact_set(session, fact_set))
            requests = [fact_request(fact) for fact in found if fact.target_new]
            if not requests:
                raise InputError(
                    f"no fact of {fact_set} has a new target (target_new), so there is nothing to write"
                )
    if prompt is not None:
        if not subject or target_new is None:
            raise click.UsageError("--prompt needs --subject and --target")
        requests = [_typed(prompt, subject, target_new, target_true, wordings, paraphrases)]
    spec = EditSpec(
        model=name,
        requests=requests,
        revision=parent.id,
        method=method,
        hparams={} if layers is None else {"layers": layers},
        hparams_file=str(hparams_file.absolute()) if hparams_file else None,
        covariance=covariance,
        texts=texts,
        seed=seed,
        message=message,
        batch=batch,
    )
    check_layers(model, settings_of(spec, model, catalog.home).layers)
    if estimate:
        tell_cost(catalog, spec, device, as_json=as_json)
        return
    job = run_job(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        made = history.find_revision(session, history.find_model(session, name), job.result["revision"])
    if as_json:
        print_json(revision_record(made))
    else:
        print_edit(name, made)


def _typed(
    prompt: str,
    subject: str,
    target_new: str,
    target_true: str | None,
    wordings: tuple[str, ...],
    paraphrases: tuple[str, ...],
) -> dict[str, Any]:
    """A request from the command line, checked as an imported one is."""

    def template(text: str) -> str:
        return text if "{}" in text and subject not in text else fact_sets.make_template(text, subject)

    return {
        "subject": subject,
        "prompt": template(prompt),
        "target_new": fact_sets.clean_target(target_new, "--target"),
        "target_true": fact_sets.clean_target(target_true, "--true") if target_true is not None else None,
        "train_paraphrases": [template(wording) for wording in wordings],
        "eval_paraphrases": list(paraphrases),
        "neighbors": [],
    }


def print_edit(model: str, revision: Revision) -> None:
    """What an edit did, for people."""
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
            f"{matrix}: rank {size['rank']}, {100 * size['relative']:.2g} % of the matrix, "
            f"{100 * size['effective']:.4g} % of it left after rounding"
        )
    click.echo(f"Undo: retcon rollback {model} {revision.parent}    Measure: retcon eval run {model}")


@edit.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("model")
@job_options
def import_(folder: Path, model: str, as_json: bool, detach: bool, device: str | None) -> None:
    """Put the edits that `retcon export` wrote to DIR on MODEL, whose base must be the same to the bit."""
    catalog = open_catalog()
    with catalog.read() as session:
        history.find_model(session, model)
    job = run_job(
        catalog, ImportEditsSpec(model, str(folder.resolve())), device, detach=detach, as_json=as_json
    )
    if job is None:
        return
    with catalog.read() as session:
        found = history.find_model(session, model)
        made = [history.find_revision(session, found, id) for id in job.result["imported"]]
    if as_json:
        print_json(job.result)
        return
    rows = ((one.id, one.kind, one.method, one.message) for one in made)
    print_table(("revision", "kind", "method", "message"), rows, "No edits.", cut="message")
    narrate(
        f"Revision {job.result['revision']} is the head of {model}; every revision was made anew and verified."
    )


edit.add_command(sweep, "sweep")
