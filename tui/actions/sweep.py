"""Check the options of a sweep, build its job, and save its best settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engine.jobs.settings import check_layers, check_method, parse_tries, save_preset, sweep_hparams
from ...engine.jobs.specs import SweepSpec
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import SweepTrial
from .edit import absolute, requests_of_set
from .sweep_ranking import Ranking, load_trace_of
from .targets import resolve_target


@dataclass(frozen=True)
class SweepOptions:
    """What a person chooses for a sweep: the facts, the layers to try, and settings to vary."""

    target: str
    fact_set: str
    limit: int | None = None
    layers: Sequence[int] | None = None
    method: str = "r-rome"
    tries: Sequence[str] = ()
    hparams_file: Path | None = None
    texts: str = "shipped"
    seed: int = 1
    trace: int | None = None


def build_sweep_spec(catalog: Catalog, options: SweepOptions) -> SweepSpec:
    """Check the options and build the job.

    Raises:
        InputError: an option is wrong.
        NotFound: the model, revision, fact set or trace does not exist.
    """
    target, method = resolve_target(catalog, options.target), options.method
    check_method(method)
    with catalog.read() as session:
        requests = requests_of_set(session, options.fact_set)[: options.limit]
        if options.trace is not None:
            load_trace_of(session, options.trace, target.model)
    layers = list(range(target.layers)) if options.layers is None else list(options.layers)
    check_layers(target.model, layers)
    file = absolute(options.hparams_file)
    return SweepSpec(
        model=target.model.name, requests=requests, layers=layers, revision=target.revision.id, method=method,
        facts=options.fact_set, trace=options.trace,
        hparams=sweep_hparams(method, file, target.model, catalog.home),
        grid=parse_tries(options.tries, method), texts=options.texts, seed=options.seed,
    )  # fmt: skip


def save_best(catalog: Catalog, ranking: Ranking) -> Path:
    """Save the best trial's settings as the model's preset; returns its file. Raises InputError without a trial."""
    best, sweep = ranking.winner, ranking.sweep
    source = (
        f"retcon sweep {sweep.id}: {ranking.score_name} {best.score['value']:.3f} over "
        f"{best.score['count']} facts, the best of {len(ranking.ranked)} trials"
    )
    settings = {"layers": best.layers} | best.changes
    return save_preset(catalog.home, ranking.model.name, sweep.method, settings, source)


def format_layers(layers: Sequence[int]) -> str:
    """`5` or `3-7`: the layers of one trial, which are consecutive."""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"


def format_settings(trial: SweepTrial) -> str:
    """The layers and the settings that a trial changes, for people."""
    layers = f"layer {format_layers(trial.layers)}"
    return ", ".join([layers, *(f"{name} {value}" for name, value in trial.changes.items())])
