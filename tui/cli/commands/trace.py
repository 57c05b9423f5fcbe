"""`retcon trace`: find where a model stores a fact, and plot it."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from sqlmodel import Session, col, func, select

from ....engine.jobs import control
from ....engine.jobs.listing import build_job_record
from ....engine.jobs.specs import TraceSpec
from ....engine.tracing.rules import KINDS
from ....store import jobs as rows
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Fact, Job, Model, Trace, TraceResult
from ....store.errors import InputError
from ....store.exchange.trace import import_trace, write_npz
from ...actions.jobs import resolve_device
from ...actions.locate import Location, save_layer, suggest_layers
from ...actions.trace import build_trace_extension, build_trace_spec, load_average_effects, load_trace
from ...actions.values import MAX_LAYERS, MAX_SAMPLES, TOKENS
from ...presentation.heatmap import HeatMapData, merge_attribution, render
from ...presentation.text import sanitize
from .. import options as opts
from ..follow import JobFailed, choose_place, follow, submit
from ..output import color_wanted, console, narrate, print_json, print_list, terminal_width
from ..records import to_record, trace_record

_BAR = 30
_fact_option = click.option(
    "--fact", type=click.IntRange(0),
    help="Number of the fact in a traced set. Default: the first traced fact.",
)  # fmt: skip

trace = opts.new_group("trace")


@trace.command()
@opts.target_argument
@click.option("--facts", help="Trace every fact of this set.")
@click.option("--prompt", help="Trace this prompt. The answer is the model's own first choice.")
@click.option("--subject", help="The subject of the fact, as it is written in the prompt.")
@click.option(
    "--expect", "expected", help="Refuse to trace unless the model's first choice begins this answer."
)
@click.option(
    "--kinds", type=opts.KIND_LIST, default="hidden,mlp,attn", show_default=True,
    help="States to restore. severed-mlp and severed-attn: hidden, while that part of the token stays corrupted.",
)  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(1, MAX_SAMPLES), default=10, show_default=True, help="Noise samples."
)
@click.option(
    "--noise", default="3s", show_default=True,
    help="3s: 3 standard deviations of the subjects' embeddings; 0.4: a standard deviation; u0.5: uniform; "
    "m: multivariate normal; t3: multivariate Student's t.",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Replace the embeddings with the noise instead of adding it.")
@click.option("--texts", default="shipped", show_default=True, help="Texts to fit the noise m and t to.")
@click.option(
    "--swap-subject", "swap",
    help="Corrupt by swapping the subject for this one, instead of noise. auto: another subject of the set.",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(1, MAX_LAYERS), default=10, show_default=True,
    help="Number of layers at which mlp and attn are restored together.",
)  # fmt: skip
@click.option("--seed", type=opts.SEED, default=1, show_default=True, help="Seed of the noise.")
@click.option(
    "--tokens", type=click.Choice(TOKENS), default="all", show_default=True,
    help="Restore at all tokens, or only at the last token of the subject.",
)  # fmt: skip
@click.option("--devices", help="Split a set of facts over several devices: cuda:0,cuda:1.")
@opts.cluster_options
@opts.estimate_option
@opts.job_options
def run(devices: str | None, job_options: opts.JobOptions, **options: Any) -> None:
    """Trace a prompt or a set of facts through MODEL."""
    if devices and options["facts"] is None:
        raise click.UsageError("--devices splits a set of facts: one prompt is traced on one device")
    if devices and job_options.device:
        raise click.UsageError("give --device or --devices, not both")
    # Checked before the first job starts: a wrong name would leave it with only its part of the facts.
    shared = [resolve_device(part.strip()) for part in devices.split(",")] if devices else []
    catalog = opts.open_catalog()
    spec = build_trace_spec(catalog, TraceSpec(**options))
    _submit(catalog, spec, replace(job_options, device=job_options.device or devices), shared)


def _submit(catalog: Catalog, spec: TraceSpec, options: opts.JobOptions, shared: Sequence[str] = ()) -> None:
    """Start one job for each device with its share of the facts, and print the trace."""
    spec, device = choose_place(catalog, spec, options)
    devices: Sequence[str | None] = shared or [device]
    started = [submit(catalog, replace(spec, shards=len(devices)), devices[0])]
    for shard, other in enumerate(devices[1:], 1):
        share = replace(spec, extends=_wait_for_trace(catalog, started[0]), shard=shard, shards=len(devices))
        started.append(submit(catalog, share, other))
    if options.detach:
        records = [build_job_record(job) for job in started]
        if options.as_json:
            print_json(records[0] if len(records) == 1 else {"jobs": records})
        else:
            click.echo("\n".join(str(job.id) for job in started))
        return
    ended = [follow(catalog, job) for job in started]
    with catalog.read() as session:
        _print(session, ended[0].result["trace"], options.as_json)


def _wait_for_trace(catalog: Catalog, job: Job) -> int:
    """The id of the trace that a job has started. The jobs of the other shards add to the same trace."""
    started: list[int] = []

    def read_trace(now: Job) -> None:
        if "trace" in now.checkpoint:
            started.append(now.checkpoint["trace"])
            raise StopIteration

    with contextlib.suppress(StopIteration):
        control.follow(catalog, job.id or 0, read_trace)
    if not started:
        with catalog.read() as session:
            raise JobFailed(rows.get(session, job.id or 0))
    return started[0]


@trace.command()
@opts.id_argument
@opts.cluster_options
@opts.job_options
def extend(id: int, job_options: opts.JobOptions) -> None:
    """Trace the facts of the trace's set that it does not contain yet.

    These are facts that were added to the set, and facts that a stopped job left out.
    """
    catalog = opts.open_catalog()
    _submit(catalog, build_trace_extension(catalog, id), job_options)


@trace.command("list")
@opts.json_option
def list_(as_json: bool) -> None:
    """List the traces, newest first."""
    count = select(func.count()).where(TraceResult.trace_id == col(Trace.id)).scalar_subquery()
    query = select(Trace, Model.name, count).join(Model).order_by(col(Trace.id).desc())
    with opts.open_catalog().read() as session:
        traces = session.exec(query).all()
    print_list(
        "traces",
        [trace_record(row, name, []) | {"facts": n} for row, name, n in traces],
        "id model revision facts kinds noise window created",
        "No traces yet. Run one: retcon trace run MODEL --prompt P --subject S",
        as_json=as_json,
        kinds=lambda one: ",".join(one["kinds"]),
    )


@trace.command()
@opts.id_argument
@click.option("--kind", type=click.Choice(KINDS), help="Show only this kind.")
@_fact_option
@opts.json_option
def show(id: int, kind: str | None, fact: int | None, as_json: bool) -> None:
    """Show one trace: the heat maps of one fact, or with --json the scores of all facts."""
    with opts.open_catalog().read() as session:
        _print(session, id, as_json, kind, fact)


def _print(
    session: Session, id: int, as_json: bool, kind: str | None = None, fact: int | None = None
) -> None:
    row, model, results = load_trace(session, id)
    if as_json:
        print_json(trace_record(row, model.name, results))
        return
    traced = [result for result in results if result.skip_reason is None]
    shown = _select_fact(results, fact) if traced or fact is not None else None
    kinds = [kind] if kind else row.kinds
    if shown is not None:
        for one in kinds:
            _check_kind(shown, one)
    level = "" if row.noise_level is None else f" = {row.noise_level:.4f}"
    click.echo(
        f"Trace {row.id} of {model.name}@{row.revision}: {len(traced)} facts traced, "
        f"{len(results) - len(traced)} skipped. "
        f"Noise {sanitize(row.noise)}{level}, {row.samples} samples, seed {row.seed}."
    )
    for result in results[:20]:
        if result.skip_reason:
            click.echo(f"  skipped {sanitize(result.prompt)!r}: {sanitize(result.skip_reason)}")
    if shown is not None:
        if len(results) > 1:
            click.echo(f"\nFact {shown.position}: {sanitize(shown.prompt)}")
        for one in kinds:
            _print_heatmap(shown, one)
    if len(traced) > 1:
        click.echo(f"\nShow the average effects and the suggested layers: retcon trace locate {row.id}")


def _check_kind(result: TraceResult, kind: str) -> None:
    if result.skip_reason or kind not in result.scores:
        raise InputError(f"this fact has no {kind} trace: {result.skip_reason or 'this kind was not traced'}")


def _print_heatmap(result: TraceResult, kind: str) -> None:
    table = result.scores[kind]
    merged = merge_attribution(table["scores"], None if result.is_complete else result.estimate.get(kind))
    best = max((score for row in merged.rows for score in row if score is not None), default=1.0)
    window = f", window {table['window']}" if kind in ("mlp", "attn") else ""
    out = console()
    out.print()
    out.print(
        render(
            HeatMapData(
                result.tokens, (result.subject_begin, result.subject_end), merged.rows, result.low or 0.0, best,
                f"p({sanitize(result.answer)}) with {kind} restored{window}", estimated=merged.estimated,
            ),
            terminal_width(),
            color=color_wanted(),
        )
    )  # fmt: skip


def _select_fact(results: list[TraceResult], number: int | None) -> TraceResult:
    """The fact with this number. Without a number: the first traced fact, else the first fact."""
    if number is None and results:
        return next((result for result in results if result.skip_reason is None), results[0])
    for result in results:
        if result.position == number:
            return result
    raise InputError(
        f"this trace has no fact {number}; it has {', '.join(str(r.position) for r in results[:20])}"
    )


@trace.command()
@opts.id_argument
@click.option(
    "--kind", type=click.Choice(KINDS), default="hidden", show_default=True, help="The kind to plot."
)
@_fact_option
@click.option("--effects", is_flag=True, help="Plot the average effects instead of one fact's heat map.")
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .pdf or .svg file.")
def plot(id: int, kind: str, fact: int | None, effects: bool, out: Path | None) -> None:
    """Plot a heat map or the average effects to a file."""
    from ...presentation.figures import effects_title, save_effects, save_result

    with opts.open_catalog().read() as session:
        _, model, results = load_trace(session, id)
        averages = load_average_effects(session, id)
    out = out or Path(f"trace-{id}-{'effects' if effects else kind}.png")
    if effects:
        if not averages:
            raise InputError(f"trace {id} has no average effects: none of its facts was traced")
        save_effects(out, averages, title=effects_title(model.name, averages))
    else:
        result = _select_fact(results, fact)
        _check_kind(result, kind)
        save_result(out, result, kind, model.name)
    narrate(f"Wrote {out}.")


@trace.command()
@opts.id_argument
@click.option("--save", is_flag=True, help="Save the first suggested layer as the model's default for edits.")
@opts.json_option
def locate(id: int, save: bool, as_json: bool) -> None:
    """Show the average effects of a trace and the layers that they suggest to edit."""
    catalog = opts.open_catalog()
    with catalog.read() as session:
        row, model, results = load_trace(session, id)
        averages = load_average_effects(session, id)
    location = suggest_layers(row, results, averages, model.anatomy["layers"])
    if save:
        path = save_layer(catalog.home, model.name, id, location)
        narrate(f"Edits of {model.name} now use layer {location.layers[0]} by default ({path}).")
    if as_json:
        names = ("layers", "kind", "role")
        record = {"trace": id, "model": model.name} | {name: getattr(location, name) for name in names}
        record |= {
            "facts": location.count,
            "skipped": location.skipped,
            "total_effect": location.total_effect,
            "notes": location.notes,
        }
        print_json(record | {"effects": [to_record(effect) for effect in averages]})
        return
    _print_location(location)


def _print_location(location: Location) -> None:
    click.echo(
        f"{location.count} facts traced, {location.skipped} skipped. "
        f"Total effect {location.total_effect:.3f} (mean of p clean - p corrupted).\n"
    )
    click.echo(f"Indirect effect of restoring {location.kind} at the {location.role} token, by layer:")
    best = max(abs(effect.mean) for effect in location.curve) or 1.0
    for effect in location.curve:
        bar = "█" * max(0, round(_BAR * effect.mean / best))
        mark = " <" if effect.layer in location.layers else ""
        interval = f" [{effect.low:.3f}, {effect.high:.3f}]" if effect.count > 1 else ""
        click.echo(f"  {effect.layer:>3}  {effect.mean:7.4f}{interval}  {bar}{mark}")
    click.echo(f"\nSuggested layers: {', '.join(map(str, location.layers))}.")
    for note in location.notes:
        click.echo(f"- {note}")


@trace.command()
@opts.id_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def export(id: int, folder: Path) -> None:
    """Write a trace in the file format of rome: knowledge_ID.npz, knowledge_ID_mlp.npz, knowledge_ID_attn.npz."""
    with opts.open_catalog().read() as session:
        _, _, results = load_trace(session, id)
        names = [_known_id(session, id, result) for result in results]
    narrate(f"Wrote {write_npz(folder, results, names)} files to {folder}.")


def _known_id(session: Session, id: int, result: TraceResult) -> int:
    """The fact's known_id in the file that it was imported from; without one, its position in the trace."""
    fact_set_id = session.get_one(Trace, id).fact_set_id
    query = select(Fact).where(Fact.fact_set_id == fact_set_id, Fact.position == result.position)
    fact = session.exec(query).first()
    known = fact.origin.get("known_id") if fact else None
    return known if isinstance(known, int) else result.position


@trace.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model that was traced.")
@opts.json_option
def import_(folder: Path, model: str, as_json: bool) -> None:
    """Import the .npz traces that rome's causal_trace wrote to DIR."""
    trace, results = import_trace(opts.open_catalog(), folder, model)
    traced = sum(result.skip_reason is None for result in results)
    if as_json:
        print_json({"trace": trace.id, "facts": len(results), "skipped": len(results) - traced})
    else:
        narrate(f"Trace {trace.id}: {traced} facts imported, {len(results) - traced} skipped.")
