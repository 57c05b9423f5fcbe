"""`retcon sweep`: edits tried at each layer, scored, none kept. `retcon edit sweep` is `retcon sweep run`."""

from pathlib import Path
from typing import Any

import click
from sqlmodel import col, func, select

from ....engine.jobs.settings import METHODS, check_layers, check_method, parse_tries, sweep_settings
from ....engine.jobs.specs import SweepSpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import FactSet, Model, Sweep, SweepTrial
from ....store.errors import InputError
from ....store.facts import sets as fact_sets
from ....store.history import history
from ...actions.presets import save_preset
from ...actions.sweeps import Ranking, curves_of, named_trace, ranking
from ...presentation.curves import render_lines
from ...presentation.text import sanitize
from ..follow import estimate as tell_cost
from ..follow import run as run_job
from ..options import ROW_ID, SEED, Layers, estimate_option, job_options, json_option, open_catalog
from ..output import color_wanted, console, narrate, print_json, print_table, terminal_width
from ..records import effect_record, fact_request, sweep_record, trial_record

_HEIGHT = 16
_SHOWN = 10

trace_option = click.option(
    "--trace", type=ROW_ID, help="Draw this trace's effects beside; by default the newest of a set of facts."
)


@click.group()
def sweep() -> None:
    """Try an edit at each layer, keep none, and see where it holds."""


@sweep.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.option(
    "--facts", "fact_set", required=True, help="Write the facts of this set that have a new target."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many of them.")
@click.option("--layers", "--layer", type=Layers(), help="3-8 or 1,4,7; by default every layer.")
@click.option("--method", default="r-rome", show_default=True, help=f"{', '.join(METHODS)}.")
@click.option(
    "--set", "tries", multiple=True, metavar="NAME=V[,V..]",
    help="Values of a setting to try, such as v_lr=0.1,0.5; of several --set, all combinations.",
)  # fmt: skip
@click.option(
    "--hparams", "hparams_file", type=click.Path(path_type=Path), help="Settings in the field's JSON."
)
@click.option(
    "--texts", default="shipped", show_default=True, help="Texts for covariances that the catalog lacks."
)
@click.option("--seed", type=SEED, default=1, show_default=True)
@trace_option
@click.option("--save", is_flag=True, help="Edit with the best trial's settings from now on.")
@estimate_option
@job_options
def run(
    target: str, fact_set: str, limit: int | None, layers: list[int] | None, method: str, tries: tuple[str, ...],
    hparams_file: Path | None, texts: str, seed: int, trace: int | None, save: bool,
    estimate: bool, as_json: bool, detach: bool, device: str | None,
) -> None:  # fmt: skip
    """Write a set of facts into MODEL at one layer after another, score each, and keep nothing."""
    if save and detach:
        raise click.UsageError(
            "--detach does not wait for what --save saves; use retcon sweep save afterwards"
        )
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    check_method(method)
    with catalog.read() as session:
        model = history.find_model(session, name)
        parent = history.find_revision(session, model, revision)
        facts = fact_sets.list_facts(session, fact_sets.find_fact_set(session, fact_set))
        if trace is not None:
            named_trace(session, trace, model)
    requests = [fact_request(fact) for fact in facts if fact.target_new][:limit]
    if not requests:
        raise InputError(f"no fact of {fact_set} has a new target (target_new), so there is nothing to write")
    layers = list(range(model.anatomy["layers"])) if layers is None else layers
    check_layers(model, layers)
    file = str(hparams_file.absolute()) if hparams_file else None
    spec = SweepSpec(
        model=name, requests=requests, layers=layers, revision=parent.id, method=method, facts=fact_set, trace=trace,
        hparams=sweep_settings(method, file, model, catalog.home), tries=parse_tries(tries, method),
        texts=texts, seed=seed,
    )  # fmt: skip
    if estimate:
        tell_cost(catalog, spec, device, as_json=as_json)
        return
    job = run_job(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        found = ranking(session, job.result["sweep"])
    if save:
        _save(catalog, found)
    _print(found, as_json)


@sweep.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The sweeps of this catalog, newest first."""
    counts = (
        select(SweepTrial.sweep_id, func.count().label("n")).group_by(col(SweepTrial.sweep_id)).subquery()
    )
    query = (
        select(Sweep, Model.name, FactSet.name, counts.c.n)
        .join(Model)
        .outerjoin(FactSet, col(FactSet.id) == col(Sweep.fact_set_id))
        .outerjoin(counts, counts.c.sweep_id == Sweep.id)
        .order_by(col(Sweep.id).desc())
    )
    with open_catalog().read() as session:
        rows = session.exec(query).all()
    if as_json:
        print_json(
            {"sweeps": [sweep_record(s, name) | {"facts": f, "done": n or 0} for s, name, f, n in rows]}
        )
        return
    print_table(
        ("id", "model", "revision", "method", "facts", "requests", "trials", "created"),
        (
            (
                s.id,
                name,
                s.revision,
                s.method,
                facts,
                len(s.requests),
                f"{n or 0} of {s.trial_count}",
                s.created,
            )
            for s, name, facts, n in rows
        ),
        "No sweeps yet. Make one: retcon edit sweep MODEL --facts SET",
    )


@sweep.command()
@click.argument("id", type=ROW_ID)
@trace_option
@json_option
def show(id: int, trace: int | None, as_json: bool) -> None:
    """The trials of a sweep by rank, and the scores against the layer."""
    with open_catalog().read() as session:
        found = ranking(session, id, trace)
    _print(found, as_json)


@sweep.command()
@click.argument("id", type=ROW_ID)
@click.argument("file", type=click.Path(path_type=Path))
@trace_option
def plot(id: int, file: Path, trace: int | None) -> None:
    """Draw the scores against the layer to FILE, a .png, .pdf or .svg."""
    from ...presentation.figures import save_sweep

    with open_catalog().read() as session:
        found = ranking(session, id, trace)
    best = found.winner.layers[-1]
    scores = {layer: trial.score for layer, trial in found.best_at().items()}
    save_sweep(file, scores, found.effects, best=best, score_name=found.score_name, title=_title(found))
    narrate(f"Drew {file}")


@sweep.command()
@click.argument("id", type=ROW_ID)
def save(id: int) -> None:
    """Edit with the best trial's settings from now on, where no others are named."""
    catalog = open_catalog()
    with catalog.read() as session:
        found = ranking(session, id)
    _save(catalog, found)


def _save(catalog: Catalog, found: Ranking) -> None:
    best, method = found.winner, found.sweep.method
    source = (
        f"retcon sweep {found.sweep.id}: {found.score_name} {best.score['value']:.3f} over "
        f"{best.score['count']} facts, the best of {len(found.ranked)} trials"
    )
    path = save_preset(catalog.home, found.model.name, method, {"layers": best.layers} | best.changes, source)
    narrate(f"Edits of {found.model.name} by {method} take {_settings(best)} from now on ({path}).")


def _title(found: Ranking) -> str:
    count = len(found.sweep.requests)
    return f"{found.model.name}: {found.sweep.method} at one layer after another, {count} facts"


def _settings(trial: SweepTrial) -> str:
    layers = str(trial.layers[0]) if len(trial.layers) == 1 else f"{trial.layers[0]}-{trial.layers[-1]}"
    return ", ".join([f"layer {layers}", *(f"{name} {value}" for name, value in trial.changes.items())])


def _print(found: Ranking, as_json: bool) -> None:
    if as_json:
        print_json(_record(found))
        return
    if found.ranked:
        width = terminal_width()
        out = console()
        for line in render_lines(
            curves_of(found), title=_title(found), width=width, height=_HEIGHT, color=color_wanted()
        ):
            out.print(line)
        click.echo()
    print_table(
        ("rank", "layers", *found.tried, found.score_name, "95 % interval", "EA", "PA", "NA", "seconds"),
        [_row(found, rank, trial) for rank, trial in enumerate(found.ranked[:_SHOWN], 1)],
        "No trial is done yet.",
    )
    if len(found.ranked) > _SHOWN:
        click.echo(f"and {len(found.ranked) - _SHOWN} more: retcon sweep show {found.sweep.id} --json")
    for trial in found.refused:
        click.echo(f"not written at {_settings(trial)}: {sanitize(trial.error or '')}")
    for note in found.notes():
        click.echo(f"- {sanitize(note)}")
    if found.ranked:
        click.echo(f"Take the best one's settings: retcon sweep save {found.sweep.id}")


def _row(found: Ranking, rank: int, trial: SweepTrial) -> tuple[Any, ...]:
    score, layers = trial.score, trial.layers
    metrics = [
        f"{trial.metrics[name]['value']:.3f}" if name in trial.metrics else None
        for name in ("EA", "PA", "NA")
    ]
    return (
        rank, str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}",
        *(trial.changes[name] for name in found.tried), f"{score['value']:.3f}",
        f"{score['low']:.3f} to {score['high']:.3f}", *metrics, f"{trial.seconds:.1f}",
    )  # fmt: skip


def _record(found: Ranking) -> dict[str, Any]:
    ranked = [{"rank": rank} | trial_record(trial) for rank, trial in enumerate(found.ranked, 1)]
    return sweep_record(found.sweep, found.model.name) | {
        "score": found.score_name,
        "trials": ranked + [{"rank": None} | trial_record(trial) for trial in found.refused],
        "trace": found.trace.id if found.trace else None,
        "effects": [effect_record(effect) for effect in found.effects],
        "notes": found.notes(),
    }
