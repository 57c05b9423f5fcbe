"""`retcon trace`: find where a model keeps a fact, and draw it."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click
from sqlmodel import Session, col, func, select

from ...engine.jobs import TraceSpec
from ...engine.jobs import follow as follow_rows
from ...store import facts as fact_sets
from ...store import history
from ...store import jobs as rows
from ...store.catalog import Catalog
from ...store.effects import average_effects
from ...store.errors import InputError, NotFound
from ...store.tables import AverageEffect, Fact, FactSet, Job, Model, Trace, TraceResult
from ...store.trace_files import read_npz, write_npz
from ..following import JobFailed, follow, submit
from ..heatmap import render
from ..locating import locate as located
from ..options import KINDS, ROW_ID, SEED, Kinds, job_options, json_option, open_catalog
from ..output import colour_wanted, console, narrate, print_json, print_table, terminal_width
from ..plain import plain
from ..records import effect_record, job_record, trace_record


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
@job_options
def run(
    target: str, fact_set: str | None, prompt: str | None, subject: str | None, expected: str | None, kinds: list[str],
    samples: int, noise: str, replace: bool, texts: str, swap: str | None, window: int, seed: int, tokens: str,
    devices: str | None, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Trace a prompt or a set of facts through MODEL."""
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    if (fact_set is None) == (prompt is None):
        raise click.UsageError("give either --facts SET, or --prompt and --subject")
    if prompt is not None:
        if not subject:
            raise click.UsageError("--prompt needs --subject, the words of it that the fact is about")
        prompt = fact_sets.template_of(prompt, subject).replace("{}", subject)
    if swap == "auto" and fact_set is None:
        raise click.UsageError("--swap-subject auto takes another subject of a set; with --prompt, name one")
    if devices and fact_set is None:
        raise click.UsageError("--devices shares a set of facts; one prompt is traced on one device")
    with catalog.read() as session:
        found = history.find_revision(session, history.find_model(session, name), revision)
        if fact_set is not None:
            fact_sets.find_fact_set(session, fact_set)
    spec = TraceSpec(
        model=name, revision=found.id, facts=fact_set, prompt=prompt, subject=subject, expected=expected, kinds=kinds,
        samples=samples, noise=noise, window=window, seed=seed, tokens=tokens, replace=replace, texts=texts, swap=swap,
    )  # fmt: skip
    _submit(catalog, spec, [device] if not devices else devices.split(","), detach=detach, as_json=as_json)


def _submit(
    catalog: Catalog, spec: TraceSpec, devices: Sequence[str | None], *, detach: bool, as_json: bool
) -> None:
    """One job per device, each with its share of the facts; then what they made."""
    started = [submit(catalog, dataclasses.replace(spec, shards=len(devices)), devices[0])]
    for shard, device in enumerate(devices[1:], 1):
        share = dataclasses.replace(spec, trace=_begun(catalog, started[0]), shard=shard, shards=len(devices))
        started.append(submit(catalog, share, device))
    if detach:
        print_json(job_record(started[0])) if as_json else click.echo(
            "\n".join(str(job.id) for job in started)
        )
        return
    ended = [follow(catalog, job) for job in started]
    with catalog.read() as session:
        _print(session, ended[0].made["trace"], as_json, None, None)


def _begun(catalog: Catalog, job: Job) -> int:
    """The trace that a job has begun; its other shards fill the same one."""
    begun: list[int] = []

    def look(now: Job) -> None:
        if "trace" in now.checkpoint:
            begun.append(now.checkpoint["trace"])
            raise StopIteration

    with contextlib.suppress(StopIteration):
        follow_rows(catalog, job.id or 0, look)
    if not begun:
        with catalog.read() as session:
            raise JobFailed(rows.get(session, job.id or 0))
    return begun[0]


@trace.command()
@click.argument("id", type=ROW_ID)
@job_options
def extend(id: int, as_json: bool, detach: bool, device: str | None) -> None:
    """Trace the facts that a trace's set has and the trace has not: those added since, those left by a kill."""
    catalog = open_catalog()
    with catalog.read() as session:
        found, model, _ = _load(session, id)
        fact_set = session.get(FactSet, found.fact_set_id) if found.fact_set_id else None
    if fact_set is None:
        raise InputError(f"trace {id} is not of a set of facts, so there is nothing to add to it")
    # The level that its other facts had, not one that new subjects would change.
    swap = "auto" if found.noise == "swap" else None
    noise = str(found.noise_level) if found.noise.endswith("s") else found.noise
    spec = TraceSpec(
        model=model.name, revision=found.revision, facts=fact_set.name, kinds=found.kinds, samples=found.samples,
        noise="3s" if swap else noise, window=found.window, seed=found.seed, tokens=found.tokens,
        replace="in place of" in found.protocol.get("corruption", ""), swap=swap, trace=id,
    )  # fmt: skip
    _submit(catalog, spec, [device], detach=detach, as_json=as_json)


@trace.command()
@click.argument("id", type=ROW_ID)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def export(id: int, folder: Path) -> None:
    """Write a trace as the field's files: knowledge_ID.npz, knowledge_ID_mlp.npz, knowledge_ID_attn.npz."""
    with open_catalog().read() as session:
        _, _, results = _load(session, id)
        names = [_known_id(session, id, result) for result in results]
    narrate(f"Wrote {write_npz(folder, results, names)} files to {folder}.")


def _known_id(session: Session, id: int, result: TraceResult) -> int:
    """The id that the fact had in the file it came from; its place in the trace if it had none."""
    fact_set_id = session.get_one(Trace, id).fact_set_id
    query = select(Fact).where(Fact.fact_set_id == fact_set_id, Fact.position == result.position)
    fact = session.exec(query).first()
    known = fact.origin.get("known_id") if fact else None
    return known if isinstance(known, int) else result.position


@trace.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model that they are traces of.")
@json_option
def import_(folder: Path, model: str, as_json: bool) -> None:
    """Take in a folder of the field's .npz traces; averages, pictures and locate work on them."""
    catalog = open_catalog()
    with catalog.write() as session:
        found = history.find_model(session, model)
        results = read_npz(folder, found.anatomy["layers"])
        made = Trace(
            model_id=found.id or 0,
            revision=history.find_revision(session, found, "base").id,
            kinds=[kind for kind in KINDS if any(kind in result.scores for result in results)],
            noise="imported",
            samples=10,
            window=next(
                (r.scores[k]["window"] for r in results for k in ("mlp", "attn") if k in r.scores), 10
            ),
            seed=1,
            protocol={"imported": str(folder)},
        )
        session.add(made)
        session.flush()
        for result in results:
            result.trace_id = made.id or 0
        session.add_all(results)
        traced = [result for result in results if result.skipped is None]
        session.add_all(AverageEffect(trace_id=made.id or 0, **e.as_dict()) for e in average_effects(traced))
    if as_json:
        print_json({"trace": made.id, "facts": len(results), "skipped": len(results) - len(traced)})
    else:
        narrate(f"Trace {made.id}: {len(traced)} facts, and {len(results) - len(traced)} that were left out.")


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
    found, model, results = _load(session, id)
    if as_json:
        print_json(trace_record(found, model.name, results))
        return
    traced = [result for result in results if result.skipped is None]
    shown = _fact(results, fact) if traced or fact is not None else None
    if shown is not None:
        for one in [kind] if kind else found.kinds:
            _check_kind(shown, one)
    click.echo(
        f"Trace {found.id} of {model.name}@{found.revision}: {len(traced)} facts traced, "
        f"{len(results) - len(traced)} skipped. "
        f"Noise {found.noise} = {found.noise_level:.4f}, {found.samples} samples, seed {found.seed}."
    )
    for result in results[:20]:
        if result.skipped:
            click.echo(f"  skipped {plain(result.prompt)!r}: {plain(result.skipped)}")
    if shown is not None:
        if len(results) > 1:
            click.echo(f"\nFact {shown.position}: {plain(shown.prompt)}")
        for one in [kind] if kind else found.kinds:
            _heatmap(shown, one)
    if len(traced) > 1:
        click.echo(f"\nAverages and the layers that they propose: retcon trace locate {found.id}")


def _check_kind(result: TraceResult, kind: str) -> None:
    if result.skipped or kind not in result.scores:
        raise InputError(f"this fact has no {kind} trace: {result.skipped or 'another kind was traced'}")


def _heatmap(result: TraceResult, kind: str) -> None:
    table = result.scores[kind]
    best = max(score for row in table["scores"] for score in row if score is not None)
    window = "" if kind == "hidden" else f", window {table['window']}"
    out = console()
    out.print()
    out.print(
        render(
            result.tokens,
            (result.subject_begin, result.subject_end),
            table["scores"],
            low=result.low or 0.0,
            high=best,
            title=f"p({plain(result.answer)}) with {kind} restored{window}",
            width=terminal_width(),
            colour=colour_wanted(),
        )
    )


def _load(session: Session, id: int) -> tuple[Trace, Model, list[TraceResult]]:
    found = session.get(Trace, id)
    if found is None:
        raise NotFound(f"there is no trace {id}; `retcon trace list` shows those there are")
    results = session.exec(
        select(TraceResult).where(TraceResult.trace_id == id).order_by(col(TraceResult.position))
    )
    return found, session.get_one(Model, found.model_id), list(results)


def _fact(results: list[TraceResult], number: int | None) -> TraceResult:
    """The fact of that number; without one the first that was traced, else the first."""
    if number is None and results:
        return next((result for result in results if result.skipped is None), results[0])
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
    from ..figures import save_effects, save_heatmap

    with open_catalog().read() as session:
        _, model, results = _load(session, id)
        averages = _effects(session, id)
    out = out or Path(f"trace-{id}-{'effects' if effects else kind}.png")
    if effects:
        if not averages:
            raise InputError(f"trace {id} has no average effects: no fact of it was traced")
        save_effects(
            out, averages, title=f"{model.name}: average indirect effects of {averages[0].count} facts"
        )
    else:
        result = _fact(results, fact)
        _check_kind(result, kind)
        save_heatmap(
            out,
            result.tokens,
            (result.subject_begin, result.subject_end),
            result.scores[kind]["scores"],
            kind=kind,
            window=result.scores[kind]["window"],
            low=result.low or 0.0,
            high=result.high or 1.0,
            answer=result.answer,
            model=model.name,
        )
    narrate(f"Drew {out}")


def _effects(session: Session, id: int) -> list[AverageEffect]:
    return list(
        session.exec(
            select(AverageEffect).where(AverageEffect.trace_id == id).order_by(col(AverageEffect.id))
        )
    )


@trace.command()
@click.argument("id", type=ROW_ID)
@json_option
def locate(id: int, as_json: bool) -> None:
    """The average effects of a trace, and the layers that they propose to edit."""
    with open_catalog().read() as session:
        found, model, results = _load(session, id)
        averages = _effects(session, id)
    answer = located(found, results, averages, model.anatomy["layers"])
    if as_json:
        record = {
            "trace": id,
            "model": model.name,
            "layers": answer.layers,
            "kind": answer.kind,
            "role": answer.role,
        }
        record |= {
            "facts": answer.count,
            "skipped": answer.skipped,
            "total_effect": answer.total_effect,
            "notes": answer.notes,
        }
        print_json(record | {"effects": [effect_record(effect) for effect in averages]})
        return
    click.echo(
        f"{answer.count} facts traced, {answer.skipped} left out. "
        f"Total effect {answer.total_effect:.3f} (mean of p clean - p corrupted).\n"
    )
    click.echo(f"Indirect effect of restoring {answer.kind} at the {answer.role} token, by layer:")
    best = max(abs(effect.mean) for effect in answer.curve) or 1.0
    for effect in answer.curve:
        bar = "█" * max(0, round(30 * effect.mean / best))
        mark = " <" if effect.layer in answer.layers else ""
        interval = f" [{effect.low:.3f}, {effect.high:.3f}]" if effect.count > 1 else ""
        click.echo(f"  {effect.layer:>3}  {effect.mean:7.4f}{interval}  {bar}{mark}")
    click.echo(f"\nProposed: layer {', '.join(map(str, answer.layers))}.")
    for note in answer.notes:
        click.echo(f"- {note}")
