"""`retcon sweep`: try an edit at each layer, score it, discard it. `retcon edit sweep` is `retcon sweep run`."""

from pathlib import Path
from typing import Any

import click
from sqlmodel import col, func, select

from ....engine.jobs.specs import SweepSpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import FactSet, Model, Sweep, SweepTrial
from ...actions.sweep import build_sweep_spec, format_layers, format_settings, save_best
from ...actions.sweep_ranking import Ranking, build_curves, load_ranking
from ...presentation.curves import render_lines
from ...presentation.text import sanitize
from .. import options as opts
from ..follow import run_job
from ..output import color_wanted, console, narrate, print_json, print_list, print_table, terminal_width
from ..records import to_record

_HEIGHT = 16
_SHOWN = 10

trace_option = click.option(
    "--trace", type=opts.ROW_ID,
    help="Plot this trace's effects beside the scores. Default: the newest trace of a fact set.",
)  # fmt: skip

sweep = opts.new_group("sweep")


@sweep.command()
@opts.target_argument
@click.option("--facts", required=True, help="Write the facts of this set that have a new target.")
@click.option("--limit", type=click.IntRange(1), help="Write only the first LIMIT facts.")
@click.option("--layers", "--layer", type=opts.LAYERS, help="3-8 or 1,4,7. Default: every layer.")
@opts.method_option("r-rome")
@click.option(
    "--set", "tries", multiple=True, metavar="NAME=V[,V..]",
    help="Values of a setting to try, such as v_lr=0.1,0.5. Several --set are tried in all combinations.",
)  # fmt: skip
@opts.hparams_option
@opts.covariance_texts_option
@opts.seed_option
@trace_option
@click.option(
    "--save", is_flag=True, help="Save the best trial's settings as the model's defaults for edits."
)
@opts.estimate_option
@opts.job_options
def run(
    model: str, layers: list[int] | None, method: str, texts: str, seed: int, trace: int | None, save: bool,
    job_options: opts.JobOptions, **options: Any,
) -> None:  # fmt: skip
    """Write a set of facts into MODEL at each layer in turn and score each trial. The model is not changed."""
    if save and job_options.detach:
        raise click.UsageError(
            "--save needs the finished sweep: omit --detach, or use retcon sweep save later"
        )
    catalog = opts.open_catalog()
    draft = SweepSpec(model, [], layers or [], {}, method=method, trace=trace, texts=texts, seed=seed)
    job = run_job(catalog, build_sweep_spec(catalog, draft, **options), job_options)
    with catalog.read() as session:
        ranking = load_ranking(session, job.result["sweep"])
    if save:
        _save(catalog, ranking)
    _print(ranking, job_options.as_json)


@sweep.command("list")
@opts.json_option
def list_(as_json: bool) -> None:
    """List the sweeps, newest first."""
    count = select(func.count()).where(SweepTrial.sweep_id == col(Sweep.id)).scalar_subquery()
    query = (
        select(Sweep, Model.name, FactSet.name, count)
        .join(Model)
        .outerjoin(FactSet, col(FactSet.id) == col(Sweep.fact_set_id))
        .order_by(col(Sweep.id).desc())
    )
    with opts.open_catalog().read() as session:
        rows = session.exec(query).all()
    print_list(
        "sweeps",
        [to_record(s, name) | {"facts": facts, "done": n} for s, name, facts, n in rows],
        "id model revision method facts requests trials created",
        "No sweeps yet. Run one: retcon edit sweep MODEL --facts SET",
        as_json=as_json,
        requests=lambda one: len(one["requests"]),
        trials=lambda one: f"{one['done']} of {one['trial_count']}",
    )


@sweep.command()
@opts.id_argument
@trace_option
@opts.json_option
def show(id: int, trace: int | None, as_json: bool) -> None:
    """Show the ranked trials of a sweep and the scores by layer."""
    with opts.open_catalog().read() as session:
        ranking = load_ranking(session, id, trace)
    _print(ranking, as_json)


@sweep.command()
@opts.id_argument
@click.argument("file", type=click.Path(path_type=Path))
@trace_option
def plot(id: int, file: Path, trace: int | None) -> None:
    """Plot the scores by layer to FILE, a .png, .pdf or .svg."""
    from ...presentation.figures import save_sweep

    with opts.open_catalog().read() as session:
        ranking = load_ranking(session, id, trace)
    best = ranking.winner.layers[-1]
    scores = {layer: trial.score for layer, trial in ranking.best_at().items()}
    save_sweep(file, scores, ranking.effects, best=best, score_name=ranking.score_name, title=_title(ranking))
    narrate(f"Wrote {file}.")


@sweep.command()
@opts.id_argument
def save(id: int) -> None:
    """Save the best trial's settings as the model's defaults for edits."""
    catalog = opts.open_catalog()
    with catalog.read() as session:
        ranking = load_ranking(session, id)
    _save(catalog, ranking)


def _save(catalog: Catalog, ranking: Ranking) -> None:
    path = save_best(catalog, ranking)
    settings = format_settings(ranking.winner)
    narrate(
        f"Edits of {ranking.model.name} by {ranking.sweep.method} now use {settings} by default ({path})."
    )


def _title(ranking: Ranking) -> str:
    return f"{ranking.model.name}: {ranking.sweep.method} at each layer, {len(ranking.sweep.requests)} facts"


def _print(ranking: Ranking, as_json: bool) -> None:
    if as_json:
        print_json(_record(ranking))
        return
    if ranking.ranked:
        out = console()
        for line in render_lines(
            build_curves(ranking),
            title=_title(ranking),
            width=terminal_width(),
            height=_HEIGHT,
            color=color_wanted(),
        ):
            out.print(line)
        click.echo()
    print_table(
        ("rank", "layers", *ranking.tried, ranking.score_name, "95 % interval", "EA", "PA", "NA", "seconds"),
        [_row(ranking, rank, trial) for rank, trial in enumerate(ranking.ranked[:_SHOWN], 1)],
        "No trial is done yet.",
    )
    if len(ranking.ranked) > _SHOWN:
        click.echo(f"and {len(ranking.ranked) - _SHOWN} more: retcon sweep show {ranking.sweep.id} --json")
    for trial in ranking.refused:
        click.echo(f"not written at {format_settings(trial)}: {sanitize(trial.error or '')}")
    for note in ranking.notes():
        click.echo(f"- {sanitize(note)}")
    if ranking.ranked:
        click.echo(f"Save the settings of the best trial: retcon sweep save {ranking.sweep.id}")


def _row(ranking: Ranking, rank: int, trial: SweepTrial) -> tuple[Any, ...]:
    score = trial.score
    metrics = [
        f"{trial.metrics[name]['value']:.3f}" if name in trial.metrics else None
        for name in ("EA", "PA", "NA")
    ]
    return (
        rank, format_layers(trial.layers), *(trial.changes[name] for name in ranking.tried), f"{score['value']:.3f}",
        f"{score['low']:.3f} to {score['high']:.3f}", *metrics, f"{trial.seconds:.1f}",
    )  # fmt: skip


def _record(ranking: Ranking) -> dict[str, Any]:
    ranked = [{"rank": rank} | to_record(trial) for rank, trial in enumerate(ranking.ranked, 1)]
    return to_record(ranking.sweep, ranking.model.name) | {
        "score": ranking.score_name,
        "trials": ranked + [{"rank": None} | to_record(trial) for trial in ranking.refused],
        "trace": ranking.trace.id if ranking.trace else None,
        "effects": [to_record(effect) for effect in ranking.effects],
        "notes": ranking.notes(),
    }
