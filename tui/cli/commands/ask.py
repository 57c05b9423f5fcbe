"""`retcon ask`: complete a prompt with one or more revisions."""

from typing import Any

import click
from sqlmodel import Session

from ....engine.jobs.specs import AskSpec
from ....store.history import history
from ...presentation.text import sanitize
from ..follow import run_job
from ..options import JobOptions, job_options, open_catalog, target_argument
from ..output import print_json, print_table


@click.command()
@target_argument
@click.argument("prompt")
@click.option(
    "--against", multiple=True, metavar="REV",
    help="Another revision to compare with, e.g. base. Can be repeated.",
)  # fmt: skip
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 500), default=20, show_default=True,
    help="Length of the completion.",
)  # fmt: skip
@click.option(
    "--top", type=click.IntRange(1, 50), default=5, show_default=True, help="Number of next tokens to print."
)
@job_options
def ask(
    model: str, prompt: str, against: tuple[str, ...], max_new_tokens: int, top: int, job_options: JobOptions
) -> None:
    """Print the most likely next tokens after PROMPT and a greedy completion."""
    if not prompt.strip():
        raise click.UsageError("the prompt is empty")
    catalog = open_catalog()
    name, revision = history.parse_target(model)
    with catalog.read() as session:
        row = history.find_model(session, name)
        ids = [history.find_revision(session, row, one).id for one in (revision, *against)]
    spec = AskSpec(model=name, prompt=prompt, revisions=ids, max_new_tokens=max_new_tokens, top=top)
    job = run_job(catalog, spec, job_options)
    if job_options.as_json:
        print_json({"prompt": job.result["prompt"], "answers": job.result["answers"]})
        return
    with catalog.read() as session:
        print_answers(session, job.result)


def print_answers(session: Session, result: dict[str, Any]) -> None:
    """Print the result of an ask job: one block for each revision."""
    click.echo(sanitize(result["prompt"]))
    for answer in result["answers"]:
        revision = history.load_path(session, answer["revision"])[-1]
        click.echo(f"\n{revision.id}  {sanitize(revision.message)}")
        click.echo(f"  …{sanitize(answer['completion'])}")
        print_table(
            ("  next", "p"),
            ((f"  {token['token']}", f"{token['probability']:.4f}") for token in answer["next"]),
            "",
        )
