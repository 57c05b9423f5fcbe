"""`retcon ask`: what a revision says, beside what another says."""

import click
from sqlmodel import Session

from ....engine.jobs.specs import AskSpec
from ....store.history import history
from ...presentation.text import sanitize
from ..follow import run
from ..options import job_options, open_catalog
from ..output import print_json, print_table


@click.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.argument("prompt")
@click.option(
    "--against", multiple=True, metavar="REV", help="Another revision to ask, e.g. base; may be repeated."
)
@click.option("--max-new-tokens", type=click.IntRange(1, 500), default=20, show_default=True)
@click.option(
    "--top", type=click.IntRange(1, 50), default=5, show_default=True, help="How many next tokens to show."
)
@job_options
def ask(
    target: str, prompt: str, against: tuple[str, ...], max_new_tokens: int, top: int,
    as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Ask PROMPT: the likeliest next tokens and a greedy completion."""
    if not prompt.strip():
        raise click.UsageError("the prompt is empty")
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    with catalog.read() as session:
        model = history.find_model(session, name)
        names = [history.find_revision(session, model, one).id for one in (revision, *against)]
    spec = AskSpec(name, prompt, names, max_new_tokens, top)
    job = run(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    if as_json:
        print_json({"prompt": job.result["prompt"], "answers": job.result["answers"]})
        return
    with catalog.read() as session:
        print_answers(session, job.result)


def print_answers(session: Session, made: dict) -> None:
    """The answers of an ask job, one block a revision."""
    click.echo(sanitize(made["prompt"]))
    for answer in made["answers"]:
        model_id_path = history.load_path(session, answer["revision"])
        revision = model_id_path[-1]
        click.echo(f"\n{revision.id}  {sanitize(revision.message)}")
        click.echo(f"  …{sanitize(answer['completion'])}")
        print_table(
            ("  next", "p"),
            ((f"  {token['token']}", f"{token['probability']:.4f}") for token in answer["next"]),
            "",
        )
