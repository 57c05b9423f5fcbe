"""`retcon publish` and `unpublish`: a revision to the hub, and back from it."""

from pathlib import Path
from typing import Any

import click

from ....engine.jobs.devices import CPU
from ....engine.jobs.publication.preview import check_repo_name
from ....engine.jobs.specs import PublishSpec, UnpublishSpec
from ....store.atomic_files import write_atomically
from ....store.errors import InputError
from ....store.history import history
from ...presentation.publication_figures import draw_publication_figures
from ...presentation.text import sanitize_lines
from ..follow import run
from ..options import job_options, open_catalog
from ..output import narrate, print_json
from .export import print_answers, print_files, shard_size_option


@click.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.argument("repo", metavar="REPO")
@click.option(
    "--as",
    "what",
    type=click.Choice(["checkpoint", "adapter"]),
    default="checkpoint",
    show_default=True,
    help="Whole weights, or a LoRA adapter for PEFT.",
)
@click.option(
    "--public/--private",
    default=False,
    help="Whether everybody may see a repo that is made; one that is there stays as it is.",
)
@click.option("--dry-run", is_flag=True, help="Show files, sizes, card and account; send nothing.")
@click.option(
    "--card",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Publish this README.md in place of the one that is made from the history.",
)
@click.option(
    "--card-out", type=click.Path(path_type=Path), help="With --dry-run: write the card here, to be edited."
)
@click.option("--license", help="The base's, where its card does not tell: apache-2.0, mit, ..")
@click.option("--pictures/--no-pictures", default=True, help="Heat maps and curves of the model's traces.")
@click.option("-m", "--message", default="", help="The commit's title.")
@shard_size_option
@job_options
def publish(
    target: str, repo: str, what: str, public: bool, dry_run: bool, card: Path | None, card_out: Path | None,
    license: str | None, pictures: bool, message: str, shard_size: int, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Publish a revision to REPO of the Hugging Face Hub: one commit, private unless you say --public.

    A cut line loses nothing: `retcon job resume` goes on, and what the hub has is not sent again.
    """
    if card_out is not None and not dry_run:
        raise click.UsageError("--card-out needs --dry-run")
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    check_repo_name(repo)
    with catalog.read() as session:
        model = history.find_model(session, name)
        found = history.find_revision(session, model, revision)
    text = _read_card(card) if card else None
    spec = PublishSpec(
        name, repo, found.id, what, public, dry_run, message, text, license,
        draw_publication_figures(catalog, model, found) if pictures else [], shard_size,
    )  # fmt: skip
    job = run(catalog, spec, device or CPU, detach=detach, as_json=as_json)
    if job is None:
        return
    if card_out is not None:
        write_atomically(card_out, lambda path: path.write_text(job.result["card"], encoding="utf-8"))
    if as_json:
        print_json(job.result)
        return
    _print(job.result, name)
    if card_out is not None:
        narrate(f"Wrote the card to {card_out}; publish it as you change it with --card {card_out}")


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8 (byte {error.start})") from error


def _print(made: dict[str, Any], model: str) -> None:
    """What was published, or would be, for people."""
    print_files(made["files"])
    print_answers(made)
    for warning in made["warnings"]:
        narrate(f"! {warning}")
    if made["rolls_back_from"]:
        narrate(f"{made['repo']} had revision {made['rolls_back_from']}: it goes back to {made['revision']}.")
    if "commit" not in made:
        click.echo()
        click.echo(sanitize_lines(made["card"]))
        account = made["account"]
        who = (
            f"as {account['name']} (a token with the role {account['role'] or 'unknown'})"
            if account
            else "by nobody"
        )
        to = {True: "which is there", False: "which would be made", None: "which was not looked up"}[
            made["exists"]
        ]
        narrate(f"Nothing was sent. It would be published to {made['repo']}, {to}, {who}.")
        for name in made["removes"]:
            narrate(f"It would remove {name}, which an earlier publication left.")
        return
    seen = "private" if made["private"] else "PUBLIC"
    tag = f", tag {made['tag']}" if made["tag"] else ""
    narrate(
        f"Published {model}@{made['revision']} as {made['account']}: {made['url']} ({seen}{tag}). "
        "Every checksum is right."
    )


@click.command()
@click.argument("repo", metavar="REPO")
@click.option("--tag", help="Only take this tag off; the commit stays.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@job_options
def unpublish(repo: str, tag: str | None, yes: bool, as_json: bool, detach: bool, device: str | None) -> None:
    """Remove REPO from the hub with all that is in it, or with --tag one tag. This cannot be undone."""
    catalog = open_catalog()
    check_repo_name(repo)
    what = f"the tag {tag} of {repo}" if tag else f"{repo} from the hub, with every commit in it,"
    if not yes and not click.confirm(f"Remove {what} for good?", err=True):
        raise click.exceptions.Exit(1)
    job = run(catalog, UnpublishSpec(repo, tag), device or CPU, detach=detach, as_json=as_json)
    if job is None:
        return
    if as_json:
        print_json(job.result)
    else:
        count = job.result["publications"]
        narrate(
            f"Removed {tag or job.result['repo']}; {count} publications of this catalog are marked withdrawn."
        )
