"""`retcon catalog export` and `import`: the history of a model in one file."""

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
@click.option("--no-covariances", is_flag=True, help="Omit the covariances, the largest part.")
@json_option
def export(model: str, file: Path, no_covariances: bool, as_json: bool) -> None:
    """Write MODEL's history to FILE: every revision with its delta, covariances, traces, sweeps and evaluations.

    FILE contains the source and fingerprint of the base, but not its weights.
    """
    catalog = open_catalog()
    result = with_progress(
        "writing",
        lambda show: bundles.export_history(catalog, model, file, show, covariances=not no_covariances),
    )
    if as_json:
        print_json({"model": model, "file": str(file.absolute())} | asdict(result))
    else:
        narrate(
            f"Wrote {file} ({format_size(result.bytes)}): {_counts(result.rows)}, {result.artifacts} artifacts."
        )


@click.command("import")
@click.argument("file", type=_FILE)
@click.option(
    "--into", metavar="MODEL", help="A model with the same base. Default: the model of the same name."
)
@click.option("--no-verify", is_flag=True, help="Do not compute and hash the weights of the imported head.")
@click.option(
    "--device", help="Device that computes them: cpu, cuda:0, ... Default: the first GPU, else the CPU."
)
@json_option
def import_(file: Path, into: str | None, no_verify: bool, device: str | None, as_json: bool) -> None:
    """Add the history in FILE to the model with the same base, and verify the weights of its head.

    Rows that exist already are kept, so a second import adds nothing. The head moves only if the model had no edits.
    """
    catalog = open_catalog()
    result = with_progress("verifying", lambda show: bundles.import_history(catalog, file, into, show))
    existing = {name: count for name, count in result.there.items() if count}
    narrate(f"Added to {result.model}: {_counts(result.added)}.")
    if existing:
        narrate(f"Existed already: {_counts(existing)}.")
    if result.head == result.tip:
        narrate(f"The head of {result.model} is {result.tip}.")
    else:
        narrate(
            f"The head of {result.model} is still {result.head}; the imported head is {result.tip}. "
            f"Move to it: retcon rollback {result.model} {result.tip}"
        )
    record = asdict(result) | {"verified": False}
    if not no_verify:
        job = follow(catalog, submit(catalog, VerifySpec(result.model, result.tip), device))
        record["verified"] = True
        narrate(
            f"Verified {result.tip}: all {job.result['tensors']} tensors have the hashes of the exported model."
        )
    if as_json:
        print_json(record)


def _counts(rows: dict[str, int]) -> str:
    """`2 revisions, 1 trace`, without the kinds that have no rows."""
    words = {"fact_set": "set of facts", "covariance": "covariance"}
    parts = []
    for name, count in rows.items():
        word = words.get(name, name)
        many = word.replace("set", "sets", 1) if name == "fact_set" else f"{word}s"
        if count:
            parts.append(f"{count} {word if count == 1 else many}")
    return sanitize(", ".join(parts)) or "nothing"
