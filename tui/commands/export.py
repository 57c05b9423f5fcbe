"""`retcon export`: take a revision home."""

from pathlib import Path

import click

from ...engine.jobs import ExportSpec
from ...store import history
from ..following import run
from ..options import job_options, open_catalog
from ..output import narrate, print_json


@click.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--as", "what", type=click.Choice(["checkpoint"]), default="checkpoint", show_default=True)
@job_options
def export(target: str, folder: Path, what: str, as_json: bool, detach: bool, device: str | None) -> None:
    """Write a revision to DIR as a checkpoint that transformers loads, and load it again to check."""
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    with catalog.read() as session:
        model = history.find_model(session, name)
        found = history.find_revision(session, model, revision)
    spec = ExportSpec(name, str(folder.absolute()), found.id, what)
    job = run(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    if as_json:
        print_json(job.made)
    else:
        narrate(
            f"Wrote {name}@{found.id} to {folder}; loaded again, its fingerprint is "
            f"{job.made['fingerprint'][:16]}, as it should be."
        )
