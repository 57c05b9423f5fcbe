"""`retcon passage`: the facts of a text put into a model, and proof of what stuck."""

import sys
from pathlib import Path
from typing import Any

import click

from ....engine.jobs import control
from ....engine.jobs.listing import build_job_record
from ....engine.jobs.settings import METHODS, check_layers, check_method, check_ways, edit_by, settings_of
from ....engine.jobs.specs import PassageSpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Job, Model
from ....store.errors import InputError
from ....store.facts import passages
from ....store.facts import sets as fact_sets
from ....store.facts.passage_format import (
    SUFFIX,
    Passage,
    format_passage,
    parse_passage,
    read_passage,
    read_prose,
)
from ....store.history import history
from ...presentation.passage_report import check_report_path, save_report, to_parts
from ..follow import JobFailed, follow
from ..follow import submit as submit_job
from ..options import ROW_ID, SEED, Layers, job_options, json_option, open_catalog
from ..output import console, narrate, print_json, print_table

_TRIED = "prompt,retrieval,lora"


@click.group()
def passage() -> None:
    """Put the facts of a text into a model, and prove what stuck."""


@passage.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--method", default="joint", show_default=True, help=f"{', '.join(METHODS)}.")
@click.option("--layers", "--layer", type=Layers(), help="5 or 3-8; by default the model's preset.")
@click.option(
    "--hparams", "hparams_file", type=click.Path(path_type=Path), help="Settings in the field's JSON."
)
@click.option(
    "--edits", type=click.IntRange(1), default=1, show_default=True, help="Write the facts in so many edits."
)
@click.option(
    "--against", default=_TRIED, show_default=True,
    help="Also answer the questions so: prompt, retrieval, reranked (its chunks ranked again by the model), or a "
    "method, whose edit is not kept.",
)  # fmt: skip
@click.option("--known", "known", help="A set of facts about anything else, whose first choice should stay.")
@click.option("--title", default="", help="What the text is about; a file of facts says it itself.")
@click.option("--llm", default="", help="Who splits prose and judges: endpoint, or a model of the catalog.")
@click.option("--llm-url", help="The endpoint's base URL; by default RETCON_LLM_URL.")
@click.option("--llm-model", help="Its model; by default RETCON_LLM_MODEL. Its key is RETCON_LLM_KEY.")
@click.option("--yes", is_flag=True, help="Write what prose was split into without a person's look at it.")
@click.option("--judge", is_flag=True, help="Have --llm score the answers from 0 to 3.")
@click.option(
    "--texts", default="shipped", show_default=True, help="Texts for covariances that the catalog lacks."
)
@click.option("--seed", type=SEED, default=1, show_default=True)
@job_options
def run(
    target: str, file: Path, method: str, layers: list[int] | None, hparams_file: Path | None, edits: int,
    against: str, known: str | None, title: str, llm: str, llm_url: str | None, llm_model: str | None,
    yes: bool, judge: bool, texts: str, seed: int, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Put the facts of FILE into MODEL (at REV), ask them again, and compare with other ways to answer.

    FILE is a file of facts (NAME.facts), or prose that --llm splits into facts; those you then see in your $EDITOR
    before anything is written.
    """
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    check_method(method)
    text, facts = _read(file)
    if judge and not llm:
        raise click.UsageError("--judge needs --llm")
    if text and not llm:
        raise click.UsageError(
            f"{file} is prose: name who splits it with --llm, or write its facts by hand into {file.stem}{SUFFIX}"
        )
    with catalog.read() as session:
        model = history.find_model(session, name)
        parent = history.find_revision(session, model, revision)
        others = fact_sets.list_facts(session, fact_sets.find_fact_set(session, known)) if known else []
    tried = [part.strip() for part in against.split(",") if part.strip()]
    check_ways(tried)
    spec = PassageSpec(
        model=name, title=title, text=text, facts=facts, revision=parent.id, method=method,
        hparams={} if layers is None else {"layers": layers},
        hparams_file=str(hparams_file.absolute()) if hparams_file else None,
        edits=edits, against=tried, prompts=[fact.prompt.replace("{}", fact.subject) for fact in others],
        llm=llm, llm_url=llm_url, llm_model=llm_model, review=not yes, judge=judge, texts=texts, seed=seed,
    )  # fmt: skip
    check_layers(model, settings_of(spec.edit([], parent.id), model, catalog.home).layers)
    for other in set(tried) & set(METHODS):
        settings_of(edit_by(spec, other, parent.id), model, catalog.home)
    job = submit_job(catalog, spec, device)
    if detach:
        print_json(build_job_record(job)) if as_json else click.echo(job.id)
        return
    _print(catalog, _followed(catalog, job)["passage"], as_json)


def _read(file: Path) -> tuple[str, str]:
    """(prose, "") or ("", a file of facts), either checked."""
    if file.suffix == SUFFIX:
        return "", format_passage(read_passage(file))
    return read_prose(file), ""


def _followed(catalog: Catalog, job: Job) -> dict[str, Any]:
    """Follow the job; where it pauses for a person, show the facts and go on."""
    try:
        return follow(catalog, job).result
    except JobFailed:
        with catalog.read() as session:
            found = session.get_one(Job, job.id)
        id = found.checkpoint.get("passage")
        if found.state != "paused" or id is None:
            raise
    if not sys.stdin.isatty():
        narrate(f"The facts wait for your look at them: retcon passage review {id}")
        raise click.exceptions.Exit(0)
    _edit(catalog, id)
    return follow(catalog, control.resume(catalog, found.id or 0)).result


@passage.command()
@click.argument("id", type=ROW_ID)
@click.option(
    "--facts", "file", type=click.Path(path_type=Path), help="Take this file instead of opening $EDITOR."
)
@click.option(
    "--show", "only_show", is_flag=True, help="Print the facts with their problems and change nothing."
)
@click.option("--detach", is_flag=True, help="Do not wait for the job that goes on.")
@json_option
def review(id: int, file: Path | None, only_show: bool, detach: bool, as_json: bool) -> None:
    """Look at the facts that a text was split into, change them in $EDITOR, and let the job go on."""
    catalog = open_catalog()
    with catalog.read() as session:
        row, job = passages.find(session, id), passages.job_of(session, id)
        text = format_passage(passages.file_of(row), passages.remarks_of(row)) if row.facts else ""
    if only_show:
        click.echo(text, nl=False)
        return
    if job is None or job.state == "done":
        raise InputError(f"passage {id} waits for nobody: its job is {job.state if job else 'removed'}.")
    if file is None:
        _edit(catalog, id)
    else:
        _take(catalog, id, read_passage(file))
    resumed = control.resume(catalog, job.id or 0)
    if detach:
        narrate(f"Job {job.id} goes on.")
        return
    _print(catalog, follow(catalog, resumed).result["passage"], as_json)


def _edit(catalog: Catalog, id: int) -> None:
    """Open the facts in the person's editor until they can be read; unsaved, they stay as they are."""
    with catalog.read() as session:
        row = passages.find(session, id)
        text = format_passage(passages.file_of(row), passages.remarks_of(row))
    while True:
        changed = click.edit(text, extension=SUFFIX)
        if changed is None:
            return
        try:
            found = parse_passage(changed, "your facts")
        except InputError as error:
            narrate(f"Error: {error}")
            if not click.confirm("Open them again?", default=True, err=True):
                raise click.exceptions.Abort from None
            text = changed
            continue
        _take(catalog, id, found)
        return


def _take(catalog: Catalog, id: int, found: Passage) -> None:
    with catalog.write() as session:
        passages.replace_facts(session, id, found)


@passage.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The passages of this catalog, newest first."""
    with open_catalog().read() as session:
        found = [passages.record(row, model) for row, model in passages.list_passages(session)]
    if as_json:
        print_json({"passages": found})
        return
    columns = ("id", "title", "model", "method", "facts", "held", "revision", "created")
    rows = (one | {"id": one["passage"], "facts": len(one["facts"]), "held": held(one)} for one in found)
    print_table(
        columns,
        ([row[name] for name in columns] for row in rows),
        "No passages yet. Put one in: retcon passage run MODEL FILE",
    )


def held(record: dict[str, Any]) -> str:
    """How many facts hold by free generation, as far as it was asked."""
    facts = record["proof"].get("facts")
    return f"{sum(one['after']['free'] for one in facts)} of {len(facts)}" if facts else ""


@passage.command()
@click.argument("id", type=ROW_ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """What a passage's run has found so far."""
    _print(open_catalog(), id, as_json)


@passage.command()
@click.argument("id", type=ROW_ID)
@click.argument("file", type=click.Path(path_type=Path))
def report(id: int, file: Path) -> None:
    """Write the report to FILE, Markdown (.md) or HTML with its plots (.html)."""
    check_report_path(file)
    save_report(file, _record(open_catalog(), id))
    narrate(f"Wrote {file}.")


def _record(catalog: Catalog, id: int) -> dict[str, Any]:
    with catalog.read() as session:
        row = passages.find(session, id)
        return passages.record(row, session.get_one(Model, row.model_id).name)


def _print(catalog: Catalog, id: int, as_json: bool) -> None:
    found = _record(catalog, id)
    if as_json:
        print_json(found)
        return
    screen = console()
    for part in to_parts(found):
        screen.print(part)
