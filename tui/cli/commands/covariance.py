"""`retcon covariance`: second moments of keys, which editing methods need."""

from pathlib import Path
from typing import Any

import click
from sqlmodel import col, select

from ....engine.jobs.specs import CovarianceSpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Covariance, Model
from ....store.errors import InputError
from ....store.exchange.covariance import field_name, import_covariance, load_sum, write_covariance
from ...actions.covariance import build_covariance_extension, check_covariance, load_covariance
from ...presentation.wording import convergence_lines, describe_convergence
from .. import options as opts
from ..follow import run_job
from ..output import narrate, print_fields, print_json, print_list
from ..records import to_record

_until_option = click.option(
    "--until-converged", "tolerance", type=click.FloatRange(0, 1, min_open=True), metavar="TOLERANCE",
    help="Stop before --max-tokens when doubling the tokens changes C^-1 k by less than this at every layer (cosine "
    "distance, mean over probes), e.g. 0.05. It falls about as key_width / tokens.",
)  # fmt: skip

covariance = opts.new_group("covariance")


@covariance.command()
@click.argument("model")
@click.option(
    "--layers", type=opts.LAYERS, required=True, help="5, 3-8 or 1,4,7-9. One pass collects all layers."
)
@click.option(
    "--texts", default="shipped", show_default=True,
    help="'shipped': 300 short texts, 45,000 tokens, works without a network; 'wikipedia': wikimedia/wikipedia in "
    "English, streamed from the hub; another hub data set NAME[:CONFIG]; or a .txt, .jsonl, .json, .csv or .parquet "
    "file.",
)  # fmt: skip
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=100_000, show_default=True,
    help="Number of tokens to use.",
)  # fmt: skip
@_until_option
@click.option(
    "--max-length", type=click.IntRange(min=2), default=512, show_default=True,
    help="Number of tokens to use of one document.",
)  # fmt: skip
@click.option(
    "--seed", type=opts.SEED, default=1, show_default=True, help="Seed of the order of the documents."
)
@opts.cluster_options
@opts.estimate_option
@opts.job_options
def run(job_options: opts.JobOptions, **options: Any) -> None:
    """Collect covariances of MODEL's base from texts."""
    catalog = opts.open_catalog()
    spec = CovarianceSpec(**options)
    check_covariance(catalog, spec)
    _run(catalog, spec, job_options)


def _run(catalog: Catalog, spec: CovarianceSpec, options: opts.JobOptions) -> None:
    job = run_job(catalog, spec, options)
    with catalog.read() as session:
        rows = [session.get_one(Covariance, id) for id in job.result["covariances"]]
    if options.as_json:
        print_json({"covariances": [to_record(row, spec.model) for row in rows]})
        return
    for row in rows:
        narrate(
            f"Covariance {row.id}: {spec.model} layer {row.layer}, {row.tokens:,} tokens of {row.documents:,} "
            f"documents; {describe_convergence(row.curve)}."
        )


@covariance.command()
@click.argument("ids", metavar="ID...", type=opts.ROW_ID, nargs=-1, required=True)
@click.option("--max-tokens", type=click.IntRange(min=1), required=True, help="Number of tokens in total.")
@_until_option
@opts.cluster_options
@opts.job_options
def extend(
    ids: tuple[int, ...], max_tokens: int, tolerance: float | None, job_options: opts.JobOptions
) -> None:
    """Continue covariances with more texts. One pass extends the layers that one run collected.

    This adds new covariances, bit for bit equal to those of one longer run. The old ones are kept, because edits refer
    to them.
    """
    catalog = opts.open_catalog()
    _run(catalog, build_covariance_extension(catalog, ids, max_tokens, tolerance), job_options)


@covariance.command("list")
@opts.json_option
def list_(as_json: bool) -> None:
    """List the covariances by model and layer."""
    with opts.open_catalog().read() as session:
        query = select(Covariance, Model.name).join(Model)
        rows = session.exec(query.order_by(Model.name, col(Covariance.layer), col(Covariance.id))).all()
    print_list(
        "covariances",
        [to_record(row, name) for row, name in rows],
        "id model layer tokens change width texts created",
        "No covariances yet. An edit collects a small one if needed. Or: retcon covariance run MODEL --layers 5",
        as_json=as_json,
        cut="texts",
        tokens=lambda one: f"{one['tokens']:,}",
        change=lambda one: one["curve"][-1]["mean"] if one["curve"] else None,
    )


@covariance.command()
@opts.id_argument
@opts.json_option
def show(id: int, as_json: bool) -> None:
    """Show the settings of one covariance and its convergence."""
    with opts.open_catalog().read() as session:
        row, model = load_covariance(session, id)
    record = to_record(row, model.name)
    if as_json:
        print_json(record)
        return
    origin = ", ".join(f"{name} {value}" for name, value in row.origin.items() if value) or "collected here"
    print_fields(list((record | {"curve": describe_convergence(row.curve), "origin": origin}).items()))
    if row.curve:
        click.echo("\n" + "\n".join(convergence_lines(row.curve)))


@covariance.command()
@opts.id_argument
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .pdf or .svg file.")
def plot(id: int, out: Path | None) -> None:
    """Plot the change of C^-1 k with each doubling of the tokens."""
    from ...presentation.figures import save_convergence

    with opts.open_catalog().read() as session:
        row, model = load_covariance(session, id)
    if not row.curve:
        raise InputError(
            f"covariance {id} has no convergence curve to plot: {describe_convergence(row.curve)}"
        )
    out = out or Path(f"covariance-{id}.png")
    save_convergence(out, row.curve, title=f"{model.name}, layer {row.layer}, {row.texts}")
    narrate(f"Wrote {out}.")


@covariance.command()
@opts.id_argument
@click.argument("file", type=click.Path(path_type=Path))
def export(id: int, file: Path) -> None:
    """Write a covariance to FILE: .safetensors with all its settings, or .npz in the format of rome and memit."""
    catalog = opts.open_catalog()
    with catalog.read() as session:
        row, model = load_covariance(session, id)
    write_covariance(file, row, model.name, load_sum(catalog, row))
    narrate(f"Wrote {file}.")
    if file.suffix == ".npz":
        narrate(f"Path for the published code: stats/MODEL/wikipedia_stats/{field_name(row)}.")


@covariance.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model whose base it belongs to.")
@click.option("--layer", type=click.IntRange(0), required=True, help="Its layer.")
@opts.json_option
def import_(file: Path, model: str, layer: int, as_json: bool) -> None:
    """Import a covariance: a .safetensors file of retcon, or an .npz file of layer_stats of rome or memit.

    A .safetensors file must come from the same weights. An .npz file does not record its model: make sure that it
    belongs to MODEL.
    """
    row = import_covariance(opts.open_catalog(), file, model, layer)
    if as_json:
        print_json(to_record(row, model))
    else:
        narrate(f"Covariance {row.id}: {model} layer {layer}, {row.tokens:,} tokens of {row.texts}.")
