"""`retcon trace`: find where a model keeps a fact, and draw it."""

from pathlib import Path

import click
from sqlmodel import Session, col, func, select

from ...engine.jobs import TraceSpec
from ...store import facts as fact_sets
from ...store import history
from ...store.errors import InputError, NotFound
from ...store.tables import AverageEffect, Model, Trace, TraceResult
from ..following import run as run_job
from ..following import submit
from ..heatmap import render
from ..locating import locate as located
from ..options import ROW_ID, SEED, Kinds, job_options, json_option, open_catalog
from ..output import clean, colour_wanted, console, narrate, print_json, print_table, terminal_width
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
@click.option("--kinds", type=Kinds(), default="hidden,mlp,attn", show_default=True)
@click.option(
    "--samples", type=click.IntRange(1, 1000), default=10, show_default=True, help="Draws of the noise."
)
@click.option(
    "--noise",
    default="3s",
    show_default=True,
    help="3s: three standard deviations of the subjects' embeddings; or a number.",
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
@job_options
def run(
    target: str, fact_set: str | None, prompt: str | None, subject: str | None, expected: str | None, kinds: list[str],
    samples: int, noise: str, window: int, seed: int, tokens: str, as_json: bool, detach: bool, device: str | None,
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
    with catalog.read() as session:
        found = history.find_revision(session, history.find_model(session, name), revision)
        if fact_set is not None:
            fact_sets.find_fact_set(session, fact_set)
    spec = TraceSpec(
        name, found.id, fact_set, prompt, subject, expected, kinds, samples, noise, window, seed, tokens
    )
    if detach:
        job = submit(catalog, spec, device)
        print_json(job_record(job)) if as_json else click.echo(job.id)
        return
    job = run_job(catalog, spec, device)
    with catalog.read() as session:
        _print(session, job.made["trace"], as_json, None, None)


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
@click.option("--kind", type=click.Choice(["hidden", "mlp", "attn"]), help="Only this kind.")
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
            click.echo(f"  skipped {clean(result.prompt)!r}: {clean(result.skipped)}")
    if shown is not None:
        if len(results) > 1:
            click.echo(f"\nFact {shown.position}: {clean(shown.prompt)}")
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
            title=f"p({clean(result.answer)}) with {kind} restored{window}",
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
@click.option("--kind", type=click.Choice(["hidden", "mlp", "attn"]), default="hidden", show_default=True)
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
