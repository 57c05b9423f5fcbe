"""`retcon export`: write a revision to a folder."""

from pathlib import Path
from typing import Any

import click

from ....engine.jobs.specs import SHARD_BYTES, ExportSpec
from ....store.exchange.manifest import EXPORT_KINDS
from ...actions.targets import resolve_target
from ...presentation.format import format_size
from ..follow import run_job
from ..options import SIZE, JobOptions, job_options, open_catalog, target_argument
from ..output import narrate, print_json, print_table

shard_size_option = click.option(
    "--shard-size", type=SIZE, default=SHARD_BYTES, help="Largest size of a checkpoint's shard. Default: 5GB."
)


@click.command()
@target_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--as", "export_kind", type=click.Choice(EXPORT_KINDS), default="checkpoint", show_default=True,
    help="Full weights, a LoRA adapter for PEFT, or only the deltas for `retcon edit import`.",
)  # fmt: skip
@shard_size_option
@job_options
def export(model: str, folder: Path, job_options: JobOptions, **options: Any) -> None:
    """Write a revision to DIR. Another process loads it and evaluates its edits again."""
    catalog = open_catalog()
    target = resolve_target(catalog, model)
    spec = ExportSpec(target.model.name, str(folder.absolute()), target.revision.id, **options)
    job = run_job(catalog, spec, job_options)
    if job_options.as_json:
        print_json(job.result)
        return
    print_files(job.result["files"])
    print_answers(job.result)
    narrate(
        f"Wrote {spec.model}@{spec.revision} to {folder}. Another process loaded it: its fingerprint "
        f"{job.result['fingerprint'][:16]} matches."
    )
    if spec.export_kind == "delta":
        narrate(f"Apply it to the same base in another catalog: retcon edit import {folder} MODEL")


def print_files(files: dict[str, int]) -> None:
    """Print files and their sizes."""
    print_table(("file", "size"), ((name, format_size(size)) for name, size in files.items()), "No files.")


def print_answers(result: dict[str, Any]) -> None:
    """Print the answers of the exported model to the prompts of its edits."""
    rows = [
        (one["prompt"], one["target"], f"{one['probability']:.4f}", "yes" if one["first_choice"] else "no",
         one["completion"])
        for one in result["answers"]
    ]  # fmt: skip
    if rows:
        print_table(("prompt", "target", "p", "first choice", "completion"), rows, "", cut="completion")
    if result["disabled_is_base"] is not None:
        same = "equal to the base, bit for bit" if result["disabled_is_base"] else "NOT equal to the base"
        click.echo(
            f"With disable_adapter(), outputs are {same}. Merged and unmerged logits differ by at most "
            f"{result['unmerged_difference']:.2g}."
        )
