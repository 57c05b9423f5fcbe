"""`retcon covariance`: second moments of keys, which editing methods need."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from sqlmodel import Session, col, select

from ....engine.jobs.specs import CovarianceSpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Covariance, Model
from ....store.errors import InputError, NotFound
from ....store.exchange.covariance import field_name, import_covariance, load_sum, write_covariance
from ....store.history import history
from ...presentation.wording import convergence_lines, describe_convergence
from ..follow import estimate as tell_cost
from ..follow import run as run_job
from ..options import (
    ROW_ID,
    SEED,
    Command,
    Layers,
    cluster_options,
    estimate_option,
    job_options,
    json_option,
    open_catalog,
    place,
)
from ..output import narrate, print_fields, print_json, print_table
from ..records import covariance_record


@click.group()
def covariance() -> None:
    """Collect the second moment of keys that edits need."""


def _until(command: Command) -> Command:
    return click.option(
        "--until-converged",
        "tolerance",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="TOLERANCE",
        help="Stop before --max-tokens when doubling the tokens changes C^-1 k by at most this at every layer "
        "(1 - cos, mean over probes), e.g. 0.05. The change falls about as key_width / tokens: see `covariance show`.",
    )(command)


@covariance.command()
@click.argument("model")
@click.option(
    "--layers", type=Layers(), required=True, help="5, 3-8 or 1,4,7-9; all are collected in one pass."
)
@click.option(
    "--texts",
    default="shipped",
    show_default=True,
    help="'shipped': 300 short texts, 45,000 tokens, no network needed; 'wikipedia': wikimedia/wikipedia in English "
    "from the hub, streamed; another hub data set NAME[:CONFIG]; or a .txt, .jsonl, .json, .csv or .parquet file.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=100_000, show_default=True)
@_until
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Tokens of one document that are read.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Order of the documents.")
@cluster_options
@estimate_option
@job_options
def run(
    model: str, layers: list[int], texts: str, max_tokens: int, tolerance: float | None, max_length: int, seed: int,
    on: str | None, threads: int | None, estimate: bool, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Collect covariances of MODEL's base from texts."""
    device = place(device, on, threads, estimate=estimate)
    catalog = open_catalog()
    with catalog.read() as session:
        found = history.find_model(session, model)
    outside = [layer for layer in layers if layer >= found.anatomy["layers"]]
    if outside:
        raise click.UsageError(
            f"{model} has layers 0 to {found.anatomy['layers'] - 1}; there is no layer {outside[0]}"
        )
    spec = CovarianceSpec(model, layers, texts, max_tokens, max_length, seed, tolerance, threads=threads)
    if estimate:
        tell_cost(catalog, spec, device, as_json=as_json)
        return
    _submit(catalog, spec, device, detach=detach, as_json=as_json)


def _submit(
    catalog: Catalog, spec: CovarianceSpec, device: str | None, *, detach: bool, as_json: bool
) -> None:
    job = run_job(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        rows = [session.get_one(Covariance, id) for id in job.result["covariances"]]
    if as_json:
        print_json({"covariances": [covariance_record(row, spec.model) for row in rows]})
        return
    for row in rows:
        narrate(
            f"Covariance {row.id}: {spec.model} layer {row.layer}, {row.tokens:,} tokens of {row.documents:,} "
            f"documents; {describe_convergence(row.curve)}."
        )


@covariance.command()
@click.argument("ids", metavar="ID...", type=ROW_ID, nargs=-1, required=True)
@click.option("--max-tokens", type=click.IntRange(min=1), required=True, help="How many it shall be in all.")
@_until
@cluster_options
@job_options
def extend(
    ids: Sequence[int],
    max_tokens: int,
    tolerance: float | None,
    on: str | None,
    threads: int | None,
    as_json: bool,
    detach: bool,
    device: str | None,
) -> None:
    """Go on with covariances where their run stopped; layers of one run together, in one pass.

    Makes new ones, which are to the bit what a run to so many tokens makes. The old stay: edits name them.
    """
    device = place(device, on, threads)
    catalog = open_catalog()
    with catalog.read() as session:
        rows = [_load(session, id)[0] for id in ids]
        model = _load(session, ids[0])[1].name
    spec = replace(CovarianceSpec.topping_up(rows, model, max_tokens, tolerance), threads=threads)
    _submit(catalog, spec, device, detach=detach, as_json=as_json)


def _load(session: Session, id: int) -> tuple[Covariance, Model]:
    row = session.get(Covariance, id)
    if row is None:
        raise NotFound(f"there is no covariance {id}; `retcon covariance list` shows those there are")
    return row, session.get_one(Model, row.model_id)


@covariance.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The covariances of this catalog."""
    with open_catalog().read() as session:
        rows = session.exec(
            select(Covariance, Model.name)
            .join(Model)
            .order_by(Model.name, col(Covariance.layer), col(Covariance.id))
        ).all()
    if as_json:
        print_json({"covariances": [covariance_record(row, name) for row, name in rows]})
        return
    print_table(
        ("id", "model", "layer", "tokens", "change", "width", "texts", "created"),
        (
            (
                r.id,
                name,
                r.layer,
                f"{r.tokens:,}",
                r.curve[-1]["mean"] if r.curve else None,
                r.width,
                r.texts,
                r.created,
            )
            for r, name in rows
        ),
        "No covariances yet. An edit collects a small one by itself; or: retcon covariance run MODEL --layers 5",
        cut="texts",
    )


@covariance.command()
@click.argument("id", type=ROW_ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """Print the settings of one covariance and its convergence."""
    with open_catalog().read() as session:
        row, model = _load(session, id)
    record = covariance_record(row, model.name)
    if as_json:
        print_json(record)
        return
    origin = ", ".join(f"{name} {value}" for name, value in row.origin.items() if value) or "collected here"
    print_fields(list((record | {"curve": describe_convergence(row.curve), "origin": origin}).items()))
    if row.curve:
        click.echo("\n" + "\n".join(convergence_lines(row.curve)))


@covariance.command()
@click.argument("id", type=ROW_ID)
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .pdf or .svg file.")
def plot(id: int, out: Path | None) -> None:
    """Draw the change of C^-1 k per doubling of the tokens."""
    from ...presentation.figures import save_convergence

    with open_catalog().read() as session:
        row, model = _load(session, id)
    if not row.curve:
        raise InputError(f"covariance {id} has no curve to draw: {describe_convergence(row.curve)}")
    out = out or Path(f"covariance-{id}.png")
    save_convergence(out, row.curve, title=f"{model.name}, layer {row.layer}, {row.texts}")
    narrate(f"Drew {out}")


@covariance.command()
@click.argument("id", type=ROW_ID)
@click.argument("file", type=click.Path(path_type=Path))
def export(id: int, file: Path) -> None:
    """Write a covariance to FILE: .safetensors with all that decides its value, or .npz as rome and memit have it."""
    catalog = open_catalog()
    with catalog.read() as session:
        row, model = _load(session, id)
    write_covariance(file, row, model.name, load_sum(catalog, row))
    narrate(f"Wrote {file}.")
    if file.suffix == ".npz":
        narrate(f"The published code finds it as stats/MODEL/wikipedia_stats/{field_name(row)}.")


@covariance.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model whose base it is of.")
@click.option("--layer", type=click.IntRange(0), required=True, help="The layer that it is of.")
@json_option
def import_(file: Path, model: str, layer: int, as_json: bool) -> None:
    """Take in a covariance: a .safetensors that retcon exported, or an .npz of rome's and memit's layer_stats.

    The former must be of the same weights. The latter does not tell its model: that it is MODEL's is your word.
    """
    row = import_covariance(open_catalog(), file, model, layer)
    if as_json:
        print_json(covariance_record(row, model))
    else:
        narrate(f"Covariance {row.id}: {model} layer {layer}, {row.tokens:,} tokens of {row.texts}.")
