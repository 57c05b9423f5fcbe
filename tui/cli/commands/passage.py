"""`retcon passage`: write the facts of a text into a model and evaluate them."""

import sys
from pathlib import Path
from typing import Any

import click

from ....engine.jobs import control
from ....engine.jobs.listing import build_job_record
from ....engine.jobs.specs import PassageSpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Job, Model
from ....store.errors import InputError
from ....store.facts import passages
from ....store.facts.passage_format import Passage, format_passage
from ....store.facts.passage_reader import SUFFIX, parse_passage, read_passage
from ...actions.passage import build_passage_spec
from ...presentation.figures import check_path
from ...presentation.passage_report import FORMATS, save_report, to_parts
from .. import options as opts
from ..follow import JobFailed, follow, submit
from ..output import console, narrate, print_json, print_list

passage = opts.new_group("passage")


@passage.command()
@opts.target_argument
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@opts.edit_options("joint")
@click.option(
    "--edits", type=click.IntRange(1), default=1, show_default=True,
    help="Split the facts into this many edits.",
)  # fmt: skip
@click.option(
    "--against", "baselines", type=opts.BASELINE_LIST, default="prompt,retrieval,lora", show_default=True,
    help="Baselines that answer the same questions: prompt, retrieval, reranked (retrieval whose chunks the model "
    "ranks again), or a method, whose edit is discarded.",
)  # fmt: skip
@click.option(
    "--known", help="A set of unrelated facts. The model's first choices for them should not change."
)
@click.option("--title", default="", help="The topic of the text. A facts file contains its own title.")
@click.option(
    "--llm", default="", help="Model that extracts facts and judges: endpoint, or a model of the catalog."
)
@click.option("--llm-url", help="Base URL of the endpoint. Default: RETCON_LLM_URL.")
@click.option(
    "--llm-model", help="Model of the endpoint. Default: RETCON_LLM_MODEL. RETCON_LLM_KEY holds its key."
)
@click.option(
    "--yes", "review", is_flag=True, callback=lambda ctx, option, yes: not yes,
    help="Write the extracted facts without a review.",
)  # fmt: skip
@click.option("--judge", is_flag=True, help="Let --llm score the answers from 0 to 3.")
@opts.job_options
def run(file: Path, known: str | None, job_options: opts.JobOptions, **options: Any) -> None:
    """Write the facts of FILE into MODEL, evaluate them, and compare with baselines.

    FILE is a facts file (NAME.facts), or prose. --llm extracts facts from prose; then $EDITOR opens for a review before
    anything is written.
    """
    catalog = opts.open_catalog()
    spec = build_passage_spec(catalog, PassageSpec(**options), file, known)
    job = submit(catalog, spec, job_options.device)
    if job_options.detach:
        print_json(build_job_record(job)) if job_options.as_json else click.echo(job.id)
        return
    _print(catalog, _follow_with_review(catalog, job)["passage"], job_options.as_json)


def _follow_with_review(catalog: Catalog, job: Job) -> dict[str, Any]:
    """Follow the job. When it pauses for a review, open the facts in the editor and resume it. Returns its result."""
    try:
        return follow(catalog, job).result
    except JobFailed:
        with catalog.read() as session:
            paused = session.get_one(Job, job.id)
        id = paused.checkpoint.get("passage")
        if paused.state != "paused" or id is None:
            raise
    if not sys.stdin.isatty():
        narrate(f"Review the extracted facts: retcon passage review {id}")
        raise click.exceptions.Exit(0)
    _edit(catalog, id)
    return follow(catalog, control.resume(catalog, paused.id or 0)).result


@passage.command()
@opts.id_argument
@click.option(
    "--facts", "file", type=click.Path(path_type=Path), help="Use this file instead of opening $EDITOR."
)
@click.option(
    "--show", "only_show", is_flag=True, help="Print the facts and their problems without a change."
)
@click.option("--detach", is_flag=True, help="Do not wait for the resumed job.")
@opts.json_option
def review(id: int, file: Path | None, only_show: bool, detach: bool, as_json: bool) -> None:
    """Review the extracted facts in $EDITOR, then resume the job."""
    catalog = opts.open_catalog()
    with catalog.read() as session:
        row, job = passages.find_passage(session, id), passages.find_job(session, id)
        text = format_passage(passages.to_file(row), passages.list_remarks(row)) if row.facts else ""
    if only_show:
        click.echo(text, nl=False)
        return
    if job is None or job.state == "done":
        raise InputError(f"Passage {id} needs no review; its job is {job.state if job else 'removed'}.")
    if file is None:
        _edit(catalog, id)
    else:
        _replace(catalog, id, read_passage(file))
    resumed = control.resume(catalog, job.id or 0)
    if detach:
        narrate(f"Resumed job {job.id}.")
        return
    _print(catalog, follow(catalog, resumed).result["passage"], as_json)


def _edit(catalog: Catalog, id: int) -> None:
    """Open the facts in the editor until they are valid. Without saving there, they stay unchanged."""
    with catalog.read() as session:
        row = passages.find_passage(session, id)
        text = format_passage(passages.to_file(row), passages.list_remarks(row))
    while True:
        changed = click.edit(text, extension=SUFFIX)
        if changed is None:
            return
        try:
            parsed = parse_passage(changed, "your facts")
        except InputError as error:
            narrate(f"Error: {error}")
            if not click.confirm("Open the facts in the editor again?", default=True, err=True):
                raise click.exceptions.Abort from None
            text = changed
            continue
        _replace(catalog, id, parsed)
        return


def _replace(catalog: Catalog, id: int, facts: Passage) -> None:
    with catalog.write() as session:
        passages.replace_facts(session, id, facts)


@passage.command("list")
@opts.json_option
def list_(as_json: bool) -> None:
    """List the passages, newest first."""
    with opts.open_catalog().read() as session:
        records = [passages.to_record(row, model) for row, model in passages.list_passages(session)]
    print_list(
        "passages",
        records,
        "id title model method facts held revision created",
        "No passages yet. Write one: retcon passage run MODEL FILE",
        as_json=as_json,
        facts=lambda one: len(one["facts"]),
        held=_held,
    )


def _held(record: dict[str, Any]) -> str:
    """How many facts the model states by free generation; empty before they are evaluated."""
    facts = record["proof"].get("facts")
    return f"{sum(one['after']['free'] for one in facts)} of {len(facts)}" if facts else ""


@passage.command()
@opts.id_argument
@opts.json_option
def show(id: int, as_json: bool) -> None:
    """Show the results of a passage so far."""
    _print(opts.open_catalog(), id, as_json)


@passage.command()
@opts.id_argument
@click.argument("file", type=click.Path(path_type=Path))
def report(id: int, file: Path) -> None:
    """Write the report to FILE: Markdown (.md), or HTML with plots (.html)."""
    check_path(file, FORMATS)
    save_report(file, _record(opts.open_catalog(), id))
    narrate(f"Wrote {file}.")


def _record(catalog: Catalog, id: int) -> dict[str, Any]:
    with catalog.read() as session:
        row = passages.find_passage(session, id)
        return passages.to_record(row, session.get_one(Model, row.model_id).name)


def _print(catalog: Catalog, id: int, as_json: bool) -> None:
    record = _record(catalog, id)
    if as_json:
        print_json(record)
        return
    screen = console()
    for part in to_parts(record):
        screen.print(part)
