"""`retcon export`: take a revision home."""

from pathlib import Path
from typing import Any

import click

from ....engine.jobs.specs import SHARD_BYTES, ExportSpec
from ....store.exchange.manifest import EXPORT_KINDS
from ....store.history import history
from ...presentation.format import format_size
from ..follow import run
from ..options import Bytes, job_options, open_catalog
from ..output import narrate, print_json, print_table

shard_size_option = click.option(
    "--shard-size",
    type=Bytes(),
    default=SHARD_BYTES,
    help="Of a checkpoint's shards at most; by default 5GB.",
)


@click.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "what",
    type=click.Choice(EXPORT_KINDS),
    default="checkpoint",
    show_default=True,
    help="Whole weights, a LoRA adapter for PEFT, or the deltas alone for `retcon edit import`.",
)
@shard_size_option
@job_options
def export(
    target: str, folder: Path, what: str, shard_size: int, as_json: bool, detach: bool, device: str | None
) -> None:
    """Write a revision to DIR, load it again in another process, and ask its edits once more."""
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    with catalog.read() as session:
        model = history.find_model(session, name)
        found = history.find_revision(session, model, revision)
    spec = ExportSpec(name, str(folder.absolute()), found.id, what, shard_size)
    job = run(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    if as_json:
        print_json(job.result)
        return
    print_files(job.result["files"])
    print_answers(job.result)
    narrate(
        f"Wrote {name}@{found.id} to {folder}; another process loaded it, its fingerprint is "
        f"{job.result['fingerprint'][:16]}, as it should be."
    )
    if what == "delta":
        narrate(f"Put it on the same base elsewhere: retcon edit import {folder} MODEL")


def print_files(files: dict[str, int]) -> None:
    """Files and their sizes."""
    print_table(("file", "size"), ((name, format_size(size)) for name, size in files.items()), "No files.")


def print_answers(made: dict[str, Any]) -> None:
    """What the export answered when its edits were asked once more."""
    rows = [
        (one["prompt"], one["target"], f"{one['probability']:.4f}", "yes" if one["first_choice"] else "no",
         one["completion"])
        for one in made["answers"]
    ]  # fmt: skip
    if rows:
        print_table(("prompt", "target", "p", "first choice", "says"), rows, "", cut="says")
    if made["disabled_is_base"] is not None:
        same = "the base's, to the bit" if made["disabled_is_base"] else "NOT the base's"
        click.echo(
            f"disable_adapter() gives outputs that are {same}; merged and unmerged differ by at most "
            f"{made['unmerged_difference']:.2g} in a logit."
        )
