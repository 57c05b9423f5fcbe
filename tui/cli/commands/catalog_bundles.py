"""`retcon catalog export` and `import`: a model's history as one file."""

from dataclasses import asdict
from pathlib import Path

import click

from ....engine.jobs.specs import VerifySpec
from ....store.exchange import bundle as bundles
from ...presentation.format import format_size, with_progress
from ...presentation.text import sanitize
from ..follow import follow, submit
from ..options import json_option, open_catalog
from ..output import narrate, print_json

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.argument("file", type=_FILE)
@click.option("--no-covariances", is_flag=True, help="Leave out the second moments, by far the largest part.")
@json_option
def export(model: str, file: Path, no_covariances: bool, as_json: bool) -> None:
    """Write MODEL's history to FILE: every revision with its delta, covariances, traces, sweeps and evaluations.

    The base's weights are not in it, only where they came from and their fingerprint.
    """
    catalog = open_catalog()
    made = with_progress(
        "writing",
        lambda show: bundles.export_history(catalog, model, file, show, covariances=not no_covariances),
    )
    if as_json:
        print_json({"model": model, "file": str(file.absolute())} | asdict(made))
    else:
        narrate(
            f"Wrote {file} ({format_size(made.bytes)}): {_counts(made.rows)}, {made.artifacts} artifacts."
        )


@click.command("import")
@click.argument("file", type=_FILE)
@click.option(
    "--into", metavar="MODEL", help="The model with the same base; by default the one of that name."
)
@click.option("--no-verify", is_flag=True, help="Do not make the imported head's weights and hash them.")
@click.option("--device", help="Where to make them: cpu, cuda:0, ..; by default the first GPU, else the CPU.")
@json_option
def import_(file: Path, into: str | None, no_verify: bool, device: str | None, as_json: bool) -> None:
    """Add the history in FILE to the model here that has the same base, and prove its head to the bit.

    What is here already stays, so that importing twice adds nothing. The head moves only where the model had no edits.
    """
    catalog = open_catalog()
    made = with_progress("verifying", lambda show: bundles.import_history(catalog, file, into, show))
    there = {name: count for name, count in made.there.items() if count}
    narrate(f"Added to {made.model}: {_counts(made.added)}.")
    if there:
        narrate(f"Here already: {_counts(there)}.")
    if made.head == made.tip:
        narrate(f"The head of {made.model} is {made.tip}.")
    else:
        narrate(
            f"The head of {made.model} stays {made.head}; where this comes from it is {made.tip}. "
            f"To go there: retcon rollback {made.model} {made.tip}"
        )
    record = asdict(made) | {"verified": False}
    if not no_verify:
        job = follow(catalog, submit(catalog, VerifySpec(made.model, made.tip), device))
        record["verified"] = True
        narrate(
            f"Verified {made.tip}: all {job.result['tensors']} tensors hash to what they were where it comes from."
        )
    if as_json:
        print_json(record)


def _counts(rows: dict[str, int]) -> str:
    """`2 revisions, 1 trace`; what there is none of is left out."""
    words = {"fact_set": "set of facts", "covariance": "covariance"}
    parts = []
    for name, count in rows.items():
        word = words.get(name, name)
        many = word.replace("set", "sets", 1) if name == "fact_set" else f"{word}s"
        if count:
            parts.append(f"{count} {word if count == 1 else many}")
    return sanitize(", ".join(parts)) or "nothing"
