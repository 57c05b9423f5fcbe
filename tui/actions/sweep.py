"""Check the options of a sweep, build its job, and save its best settings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...engine.jobs.settings import check_layers, check_method, parse_tries, save_preset, sweep_hparams
from ...engine.jobs.specs import SweepSpec
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import SweepTrial
from .edit import requests_of_set
from .sweep_ranking import Ranking, load_trace_of
from .targets import resolve_spec


def build_sweep_spec(
    catalog: Catalog,
    draft: SweepSpec,
    facts: str,
    *,
    tries: Sequence[str] = (),
    hparams_file: str | None = None,
    limit: int | None = None,
) -> SweepSpec:
    """Check a draft (see `resolve_spec`); add the set's first `limit` requests, and all layers if it has none.

    Raises:
        InputError: an option is wrong.
        NotFound: the model, revision, fact set or trace does not exist.
    """
    target, spec = resolve_spec(catalog, draft)
    check_method(spec.method)
    with catalog.read() as session:
        requests = requests_of_set(session, facts)[:limit]
        if spec.trace is not None:
            load_trace_of(session, spec.trace, target.model)
    layers = spec.layers or list(range(target.layers))
    check_layers(target.model, layers)
    hparams = sweep_hparams(spec.method, hparams_file, target.model, catalog.home)
    grid = parse_tries(tries, spec.method)
    return replace(spec, facts=facts, requests=requests, layers=layers, hparams=hparams, grid=grid)


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
