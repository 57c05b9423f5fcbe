"""`retcon publish` and `unpublish`: publish a revision on the hub, or delete it there."""

from pathlib import Path
from typing import Any

import click

from ....engine.jobs.publication.preview import check_repo_name
from ....engine.jobs.specs import PublishSpec, UnpublishSpec
from ....store.atomic_files import write_atomically
from ...actions.publish import FORMATS, add_pictures, build_publish_spec, read_card
from ...presentation.text import sanitize_lines
from ..follow import run_job
from ..options import JobOptions, job_options, open_catalog, target_argument
from ..output import narrate, print_json
from .export import print_answers, print_files, shard_size_option


@click.command()
@target_argument
@click.argument("repo", metavar="REPO")
@click.option(
    "--as", "export_kind", type=click.Choice(FORMATS), default="checkpoint", show_default=True,
    help="Full weights, or a LoRA adapter for PEFT.",
)  # fmt: skip
@click.option(
    "--public/--private", default=False, help="Visibility of a new repo. An existing repo is not changed."
)
@click.option("--dry-run", is_flag=True, help="Print files, sizes, card and account. Send nothing.")
@click.option(
    "--card", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    callback=lambda ctx, option, path: read_card(path) if path else None,
    help="Publish this README.md instead of the card that retcon writes.",
)  # fmt: skip
@click.option(
    "--card-out", type=click.Path(path_type=Path),
    help="With --dry-run: write the card to this file, to edit it.",
)  # fmt: skip
@click.option("--license", help="License of the base if its own card has none: apache-2.0, mit, ..")
@click.option(
    "--pictures/--no-pictures", default=True, help="Include heat maps and curves of the model's traces."
)
@click.option("-m", "--message", default="", help="Title of the commit.")
@shard_size_option
@job_options
def publish(card_out: Path | None, pictures: bool, job_options: JobOptions, **options: Any) -> None:
    """Publish a revision to REPO of the Hugging Face Hub in one commit. A new repo is private without --public.

    After a lost connection, `retcon job resume` sends only the files that the hub does not have.
    """
    draft = PublishSpec(**options)
    if card_out is not None and not draft.dry_run:
        raise click.UsageError("--card-out needs --dry-run")
    catalog = open_catalog()
    check_repo_name(draft.repo)
    spec = build_publish_spec(catalog, draft)
    if pictures:
        spec = add_pictures(catalog, spec)
    job = run_job(catalog, spec, job_options.on_cpu())
    if card_out is not None:
        write_atomically(card_out, lambda path: path.write_text(job.result["card"], encoding="utf-8"))
    if job_options.as_json:
        print_json(job.result)
        return
    _print(job.result, spec.model)
    if card_out is not None:
        narrate(f"Wrote the card to {card_out}. Edit it and publish it with --card {card_out}")


def _print(result: dict[str, Any], model: str) -> None:
    """Print what was published, or with --dry-run what would be."""
    print_files(result["files"])
    print_answers(result)
    for warning in result["warnings"]:
        narrate(f"! {warning}")
    if result["rolls_back_from"]:
        narrate(
            f"{result['repo']} goes back from revision {result['rolls_back_from']} to {result['revision']}."
        )
    if "commit" not in result:
        _print_dry_run(result)
        return
    visibility = "private" if result["private"] else "PUBLIC"
    tag = f", tag {result['tag']}" if result["tag"] else ""
    narrate(
        f"Published {model}@{result['revision']} as {result['account']}: {result['url']} ({visibility}{tag}). "
        "All checksums match."
    )


def _print_dry_run(result: dict[str, Any]) -> None:
    click.echo()
    click.echo(sanitize_lines(result["card"]))
    account = result["account"]
    login = f"as {account['name']}, token role {account['role'] or 'unknown'}" if account else "not logged in"
    existence = {True: "exists", False: "would be created", None: "existence not checked"}[result["exists"]]
    narrate(f"Nothing was sent. Would publish to {result['repo']} ({existence}; {login}).")
    for name in result["removes"]:
        narrate(f"Would remove {name} of an earlier publication.")


@click.command()
@click.argument("repo", metavar="REPO")
@click.option("--tag", help="Delete only this tag. The commit is kept.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@job_options
def unpublish(repo: str, tag: str | None, yes: bool, job_options: JobOptions) -> None:
    """Delete REPO from the hub with everything in it, or with --tag one tag. This cannot be undone."""
    catalog = open_catalog()
    check_repo_name(repo)
    target = f"tag {tag} of {repo}" if tag else f"{repo} with all its commits from the hub"
    if not yes and not click.confirm(f"Delete {target}? This cannot be undone.", err=True):
        raise click.exceptions.Exit(1)
    job = run_job(catalog, UnpublishSpec(repo=repo, tag=tag), job_options.on_cpu())
    if job_options.as_json:
        print_json(job.result)
    else:
        narrate(
            f"Deleted {tag or job.result['repo']}. Publications of this catalog marked as unpublished: "
            f"{job.result['publications']}."
        )
