"""`retcon covariance`: second moments of keys, which editing methods need."""

import click
from sqlmodel import col, select

from ...engine.jobs import CovarianceSpec
from ...store import history
from ...store.errors import NotFound
from ...store.tables import Covariance, Model
from ..following import estimate as tell_cost
from ..following import run as run_job
from ..options import ROW_ID, SEED, Layers, estimate_option, job_options, json_option, open_catalog
from ..output import narrate, print_fields, print_json, print_table
from ..records import covariance_record


@click.group()
def covariance() -> None:
    """Collect the second moment of keys that edits need."""


@covariance.command()
@click.argument("model")
@click.option(
    "--layers", type=Layers(), required=True, help="5, 3-8 or 1,4,7-9; all are collected in one pass."
)
@click.option(
    "--texts",
    default="shipped",
    show_default=True,
    help="A .txt, .jsonl, .csv or .parquet file, a hub data set NAME[:CONFIG], or 'shipped'.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Tokens of one document that are read.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Order of the documents.")
@estimate_option
@job_options
def run(
    model: str, layers: list[int], texts: str, max_tokens: int, max_length: int, seed: int,
    estimate: bool, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Collect covariances of MODEL's base from texts."""
    catalog = open_catalog()
    with catalog.read() as session:
        found = history.find_model(session, model)
    outside = [layer for layer in layers if layer >= found.anatomy["layers"]]
    if outside:
        raise click.UsageError(
            f"{model} has layers 0 to {found.anatomy['layers'] - 1}; there is no layer {outside[0]}"
        )
    spec = CovarianceSpec(model, layers, texts, max_tokens, max_length, seed)
    if estimate:
        tell_cost(catalog, spec, device, as_json=as_json)
        return
    job = run_job(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        rows = [session.get_one(Covariance, id) for id in job.made["covariances"]]
    if as_json:
        print_json({"covariances": [covariance_record(row, model) for row in rows]})
        return
    for row in rows:
        narrate(
            f"Covariance {row.id}: {model} layer {row.layer}, {row.tokens:,} tokens of {row.documents:,} documents."
        )


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
        ("id", "model", "layer", "tokens", "documents", "width", "texts", "created"),
        (
            (r.id, name, r.layer, f"{r.tokens:,}", r.documents, r.width, r.texts, r.created)
            for r, name in rows
        ),
        "No covariances yet. An edit collects a small one by itself; or: retcon covariance run MODEL --layers 5",
        cut="texts",
    )


@covariance.command()
@click.argument("id", type=ROW_ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """How one covariance was made."""
    with open_catalog().read() as session:
        row = session.get(Covariance, id)
        if row is None:
            raise NotFound(f"there is no covariance {id}; `retcon covariance list` shows those there are")
        model = session.get_one(Model, row.model_id).name
    record = covariance_record(row, model)
    print_json(record) if as_json else print_fields(list(record.items()))
