"""`retcon trace`: find where a model keeps a fact, and draw it."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click
from sqlmodel import Session, col, func, select

from ....engine.jobs import control
from ....engine.jobs.listing import build_job_record
from ....engine.jobs.settings import check_noise
from ....engine.jobs.specs import TraceSpec
from ....engine.tracing.rules import KINDS, NoiseRule
from ....store import jobs as rows
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import FactSet, Job, Model, Trace, TraceResult
from ....store.errors import InputError
from ....store.facts import sets as fact_sets
from ....store.history import history
from ...presentation.heatmap import HeatMapData, merge_attribution, render
from ...presentation.text import sanitize
from ..follow import JobFailed, follow, known_device, submit
from ..follow import estimate as tell_cost
from ..options import (
    ROW_ID,
    SEED,
    Kinds,
    cluster_options,
    estimate_option,
    job_options,
    json_option,
    open_catalog,
    place,
)
from ..output import color_wanted, console, narrate, print_json, print_table, terminal_width
from ..records import trace_record
from .trace_files import export, import_
from .trace_locate import locate
from .trace_rows import effects_of, load_trace


@click.group()
def trace() -> None:
    """Find where a model keeps a fact."""


@trace.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.option("--facts", "fact_set", help="Trace every fact of this set.")
@click.option("--prompt", help="Trace this prompt; the answer is the model's own first choice.")
@click.option("--subject", help="The words of the prompt that the fact is about.")
@click.option(
    "--expect", "expected", help="Refuse to trace unless the model's first choice begins this answer."
)
@click.option(
    "--kinds",
    type=Kinds(),
    default="hidden,mlp,attn",
    show_default=True,
    help="Also severed-mlp and severed-attn: hidden, with that part of the token kept corrupted.",
)
@click.option(
    "--samples", type=click.IntRange(1, 1000), default=10, show_default=True, help="Draws of the noise."
)
@click.option(
    "--noise",
    default="3s",
    show_default=True,
    help="3s: standard deviations of the subjects' embeddings; 0.4: a number; u0.5: uniform; m: multivariate; "
    "t3: Student's t.",
)
@click.option("--replace", is_flag=True, help="Put the noise in the embeddings' place instead of adding it.")
@click.option(
    "--texts", default="shipped", show_default=True, help="Texts that the noise m and t is fitted to."
)
@click.option(
    "--swap-subject", "swap", help="Corrupt by this subject instead of noise; 'auto': another one of the set."
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Layers that mlp and attn restore together.",
)
@click.option("--seed", type=SEED, default=1, show_default=True)
@click.option("--tokens", type=click.Choice(["all", "subject-last"]), default="all", show_default=True)
@click.option("--devices", help="Share a set of facts among several devices: cuda:0,cuda:1.")
@cluster_options
@estimate_option
@job_options
def run(
    target: str, fact_set: str | None, prompt: str | None, subject: str | None, expected: str | None, kinds: list[str],
    samples: int, noise: str, replace: bool, texts: str, swap: str | None, window: int, seed: int, tokens: str,
    devices: str | None, on: str | None, threads: int | None, estimate: bool, as_json: bool, detach: bool,
    device: str | None,
) -> None:  # fmt: skip
    """Trace a prompt or a set of facts through MODEL."""
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    if (fact_set is None) == (prompt is None):
        raise click.UsageError("give either --facts SET, or --prompt and --subject")
    if prompt is not None:
        if not subject:
            raise click.UsageError("--prompt needs --subject, the words of it that the fact is about")
        prompt = fact_sets.make_template(prompt, subject).replace("{}", subject)
    if swap == "auto" and fact_set is None:
        raise click.UsageError("--swap-subject auto takes another subject of a set; with --prompt, name one")
    if devices and fact_set is None:
        raise click.UsageError("--devices shares a set of facts; one prompt is traced on one device")
    if devices and device:
        raise click.UsageError("name one --device, or several --devices")
    shared = [part.strip() for part in devices.split(",")] if devices else []
    for one in shared:
        # All of them before the first job begins, which would be left with its part alone.
        known_device(one)
    device = place(device or devices, on, threads, estimate=estimate) if on or threads else device
    check_noise(noise)
    with catalog.read() as session:
        found = history.find_revision(session, history.find_model(session, name), revision)
        if fact_set is not None:
            fact_sets.find_fact_set(session, fact_set)
    spec = TraceSpec(
        model=name, revision=found.id, facts=fact_set, prompt=prompt, subject=subject, expected=expected, kinds=kinds,
        samples=samples, noise=noise, window=window, seed=seed, tokens=tokens, replace=replace, texts=texts, swap=swap,
        threads=threads,
    )  # fmt: skip
    if estimate:
        tell_cost(catalog, spec, device, as_json=as_json)
        return
    _submit(catalog, spec, shared or [device], detach=detach, as_json=as_json)


def _submit(
    catalog: Catalog, spec: TraceSpec, devices: Sequence[str | None], *, detach: bool, as_json: bool
) -> None:
    """One job per device, each with its share of the facts; then what they made."""
    started = [submit(catalog, dataclasses.replace(spec, shards=len(devices)), devices[0])]
    for shard, device in enumerate(devices[1:], 1):
        share = dataclasses.replace(spec, trace=_begun(catalog, started[0]), shard=shard, shards=len(devices))
        started.append(submit(catalog, share, device))
    if detach:
        records = [build_job_record(job) for job in started]
        if as_json:
            print_json(records[0] if len(records) == 1 else {"jobs": records})
        else:
            click.echo("\n".join(str(job.id) for job in started))
        return
    ended = [follow(catalog, job) for job in started]
    with catalog.read() as session:
        _print(session, ended[0].result["trace"], as_json, None, None)


def _begun(catalog: Catalog, job: Job) -> int:
    """The trace that a job has begun; its other shards fill the same one."""
    begun: list[int] = []

    def look(now: Job) -> None:
        if "trace" in now.checkpoint:
            begun.append(now.checkpoint["trace"])
            raise StopIteration

    with contextlib.suppress(StopIteration):
        control.follow(catalog, job.id or 0, look)
    if not begun:
        with catalog.read() as session:
            raise JobFailed(rows.get(session, job.id or 0))
    return begun[0]


@trace.command()
@click.argument("id", type=ROW_ID)
@cluster_options
@job_options
def extend(
    id: int, on: str | None, threads: int | None, as_json: bool, detach: bool, device: str | None
) -> None:
    """Trace the facts that a trace's set has and the trace has not: those added since, those left by a kill."""
    device = place(device, on, threads)
    catalog = open_catalog()
    with catalog.read() as session:
        found, model, _ = load_trace(session, id)
        fact_set = session.get(FactSet, found.fact_set_id) if found.fact_set_id else None
    if fact_set is None:
        raise InputError(f"trace {id} is not of a set of facts, so there is nothing to add to it")
    # The level that its other facts had, not one that new subjects would change.
    noise = str(found.noise_level) if found.noise.endswith("s") else found.noise
    texts = found.protocol.get("texts")
    if not found.swap and NoiseRule.parse(noise).needs_texts and texts is None:
        raise InputError(
            f"trace {id} does not tell which texts its noise {found.noise} was fitted to, so facts added to it would "
            "be corrupted otherwise: trace the set anew"
        )
    spec = TraceSpec(
        model=model.name, revision=found.revision, facts=fact_set.name, kinds=found.kinds, samples=found.samples,
        noise="3s" if found.swap else noise, window=found.window, seed=found.seed, tokens=found.tokens,
        replace=found.replace, swap=found.swap, trace=id,
        texts=texts or "shipped", threads=threads,
    )  # fmt: skip
    _submit(catalog, spec, [device], detach=detach, as_json=as_json)


@trace.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The traces of this catalog, newest first."""
    with open_catalog().read() as session:
        counts = (
            select(TraceResult.trace_id, func.count().label("n"))
            .group_by(col(TraceResult.trace_id))
            .subquery()
        )
        rows = session.exec(
            select(Trace, Model.name, counts.c.n)
            .join(Model)
            .outerjoin(counts, counts.c.trace_id == Trace.id)
            .order_by(col(Trace.id).desc())
        ).all()
    if as_json:
        print_json({"traces": [trace_record(t, name, []) | {"facts": n or 0} for t, name, n in rows]})
        return
    print_table(
        ("id", "model", "revision", "facts", "kinds", "noise", "window", "created"),
        (
            (t.id, name, t.revision, n or 0, ",".join(t.kinds), t.noise, t.window, t.created)
            for t, name, n in rows
        ),
        "No traces yet. Make one: retcon trace run MODEL --prompt P --subject S",
    )


@trace.command()
@click.argument("id", type=ROW_ID)
@click.option("--kind", type=click.Choice(KINDS), help="Only this kind.")
@click.option(
    "--fact", type=click.IntRange(0), help="Which fact of a traced set; by default the first that was traced."
)
@json_option
def show(id: int, kind: str | None, fact: int | None, as_json: bool) -> None:
    """One trace: heat maps of one fact, or everything with --json."""
    with open_catalog().read() as session:
        _print(session, id, as_json, kind, fact)


def _print(session: Session, id: int, as_json: bool, kind: str | None, fact: int | None) -> None:
    found, model, results = load_trace(session, id)
    if as_json:
        print_json(trace_record(found, model.name, results))
        return
    traced = [result for result in results if result.skip_reason is None]
    shown = _fact(results, fact) if traced or fact is not None else None
    if shown is not None:
        for one in [kind] if kind else found.kinds:
            _check_kind(shown, one)
    level = "" if found.noise_level is None else f" = {found.noise_level:.4f}"
    click.echo(
        f"Trace {found.id} of {model.name}@{found.revision}: {len(traced)} facts traced, "
        f"{len(results) - len(traced)} skipped. "
        f"Noise {sanitize(found.noise)}{level}, {found.samples} samples, seed {found.seed}."
    )
    for result in results[:20]:
        if result.skip_reason:
            click.echo(f"  skipped {sanitize(result.prompt)!r}: {sanitize(result.skip_reason)}")
    if shown is not None:
        if len(results) > 1:
            click.echo(f"\nFact {shown.position}: {sanitize(shown.prompt)}")
        for one in [kind] if kind else found.kinds:
            _heatmap(shown, one)
    if len(traced) > 1:
        click.echo(f"\nAverages and the layers that they propose: retcon trace locate {found.id}")


def _check_kind(result: TraceResult, kind: str) -> None:
    if result.skip_reason or kind not in result.scores:
        raise InputError(f"this fact has no {kind} trace: {result.skip_reason or 'another kind was traced'}")


def _heatmap(result: TraceResult, kind: str) -> None:
    table = result.scores[kind]
    merged = merge_attribution(table["scores"], None if result.is_complete else result.estimate.get(kind))
    best = max((score for row in merged.rows for score in row if score is not None), default=1.0)
    window = f", window {table['window']}" if kind in ("mlp", "attn") else ""
    out = console()
    out.print()
    out.print(
        render(
            HeatMapData(
                result.tokens,
                (result.subject_begin, result.subject_end),
                merged.rows,
                result.low or 0.0,
                best,
                f"p({sanitize(result.answer)}) with {kind} restored{window}",
                estimated=merged.estimated,
            ),
            terminal_width(),
            color=color_wanted(),
        )
    )


def _fact(results: list[TraceResult], number: int | None) -> TraceResult:
    """The fact of that number; without one the first that was traced, else the first."""
    if number is None and results:
        return next((result for result in results if result.skip_reason is None), results[0])
    for result in results:
        if result.position == number:
            return result
    raise InputError(
        f"this trace has no fact {number}; it has {', '.join(str(r.position) for r in results[:20])}"
    )


@trace.command()
@click.argument("id", type=ROW_ID)
@click.option("--kind", type=click.Choice(KINDS), default="hidden", show_default=True)
@click.option(
    "--fact", type=click.IntRange(0), help="Which fact of a traced set; by default the first that was traced."
)
@click.option("--effects", is_flag=True, help="The average effects instead of one fact's heat map.")
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .pdf or .svg file.")
def plot(id: int, kind: str, fact: int | None, effects: bool, out: Path | None) -> None:
    """Draw a heat map, or the average effects, to a file."""
    from ...presentation.figures import effects_title, save_effects, save_result

    with open_catalog().read() as session:
        _, model, results = load_trace(session, id)
        averages = effects_of(session, id)
    out = out or Path(f"trace-{id}-{'effects' if effects else kind}.png")
    if effects:
        if not averages:
            raise InputError(f"trace {id} has no average effects: no fact of it was traced")
        save_effects(out, averages, title=effects_title(model.name, averages))
    else:
        result = _fact(results, fact)
        _check_kind(result, kind)
        save_result(out, result, kind, model.name)
    narrate(f"Drew {out}")


for command in (export, import_, locate):
    trace.add_command(command)
