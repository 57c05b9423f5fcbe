"""Rank the trials of a sweep, and compare them with a trace's effects at the same layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from ...store.catalog.tables import AverageEffect, Model, Sweep, SweepTrial, Trace
from ...store.errors import InputError, NotFound
from ..presentation.curves import Curve

_ROLE, _KIND = "last subject", "mlp"


@dataclass(frozen=True)
class Ranking:
    """The trials of a sweep: `ranked` are the finished ones, best first; `refused` are those that failed."""

    sweep: Sweep
    model: Model
    ranked: list[SweepTrial]
    refused: list[SweepTrial]
    trace: Trace | None
    effects: list[AverageEffect]

    @property
    def layers(self) -> int:
        """The number of layers of the model."""
        return int(self.model.anatomy["layers"])

    @property
    def score_name(self) -> str:
        """Name of the score: S, or the metrics that the facts allow instead of it."""
        metrics = self.ranked[0].score["of"] if self.ranked else ["ES", "PS", "NS"]
        if metrics == ["ES", "PS", "NS"]:
            return "S"
        return metrics[0] if len(metrics) == 1 else f"mean of {', '.join(metrics)}"

    @property
    def tried(self) -> list[str]:
        """The names of the settings that the sweep varies."""
        return list(self.ranked[0].changes) if self.ranked else []

    @property
    def winner(self) -> SweepTrial:
        """The best trial. Raises InputError if no trial is done."""
        if not self.ranked:
            why = f": {self.refused[0].error}" if self.refused else "; wait for its job"
            raise InputError(f"sweep {self.sweep.id} has no finished trial{why}")
        return self.ranked[0]

    def best_at(self) -> dict[int, SweepTrial]:
        """The best trial of each layer. A trial that edits several layers counts for its last one."""
        best: dict[int, SweepTrial] = {}
        for trial in self.ranked:
            best.setdefault(trial.layers[-1], trial)
        return best

    def notes(self) -> list[str]:
        """Sentences about the limits of the ranking."""
        notes = []
        cases = len(self.sweep.requests)
        if self.ranked and (metrics := self.ranked[0].score["of"]) != ["ES", "PS", "NS"]:
            notes.append(
                f"S needs a true target, paraphrases and neighbors of each fact; these facts allow "
                f"{', '.join(metrics)}, so the rank uses their harmonic mean."
            )
        top = [trial for trial in self.ranked if trial.score["high"] >= self.ranked[0].score["low"]]
        if len(top) > 1:
            notes.append(
                f"The intervals of {len(top)} trials overlap with the best: {cases} facts do not distinguish them."
            )
        if self.trace is not None and self.trace.revision != self.sweep.revision:
            notes.append(
                f"Trace {self.trace.id} is of revision {self.trace.revision}, the sweep of {self.sweep.revision}."
            )
        missing = self.sweep.trial_count - len(self.ranked) - len(self.refused)
        if missing:
            notes.append(f"{missing} of {self.sweep.trial_count} trials are not finished.")
        return notes


def load_ranking(session: Session, id: int, trace: int | None = None) -> Ranking:
    """Load a sweep with the effects of `trace`, else of its own trace, else of the model's newest trace of a fact set.

    Raises:
        NotFound: the sweep or the trace does not exist.
        InputError: the trace has no MLP effects at the last subject token, or belongs to another model.
    """
    sweep = session.get(Sweep, id)
    if sweep is None:
        raise NotFound(f"sweep {id} does not exist; `retcon sweep list` lists the sweeps")
    trials = list(session.exec(select(SweepTrial).where(SweepTrial.sweep_id == id)))
    trace_id = trace or sweep.trace_id
    model = session.get_one(Model, sweep.model_id)
    compared = load_trace_of(session, trace_id, model) if trace_id else _load_newest_trace(session, model)
    return Ranking(
        sweep,
        model,
        sorted((trial for trial in trials if trial.error is None), key=_rank_key),
        [trial for trial in trials if trial.error is not None],
        compared,
        load_subject_effects(session, compared) if compared else [],
    )


def _rank_key(trial: SweepTrial) -> tuple[float, float, int]:
    """Sort key: the score, then the differences of probability behind it, then the order of the trials."""
    magnitudes = sum(trial.metrics[name]["value"] for name in ("EM", "PM", "NM") if name in trial.metrics)
    return -trial.score["value"], -magnitudes, trial.position


def load_trace_of(session: Session, id: int, model: Model) -> Trace:
    """A trace of this model with effects to plot beside the scores. Raises NotFound, InputError."""
    trace = session.get(Trace, id)
    if trace is None:
        raise NotFound(f"trace {id} does not exist; `retcon trace list` lists the traces")
    if trace.model_id != model.id:
        raise InputError(f"trace {id} belongs to another model than {model.name}")
    if not load_subject_effects(session, trace):
        raise InputError(
            f"trace {id} has no average effects of mlp at the {_ROLE} token: trace a set of facts"
        )
    return trace


def _load_newest_trace(session: Session, model: Model) -> Trace | None:
    of_sets = select(Trace).where(Trace.model_id == model.id, col(Trace.fact_set_id).is_not(None))
    traces = session.exec(of_sets.order_by(col(Trace.id).desc()))
    return next((trace for trace in traces if load_subject_effects(session, trace)), None)


def load_subject_effects(session: Session, trace: Trace) -> list[AverageEffect]:
    """The average effects of the MLP at the last subject token, by layer."""
    query = select(AverageEffect).where(
        AverageEffect.trace_id == trace.id, AverageEffect.kind == _KIND, AverageEffect.role == _ROLE
    )
    return list(session.exec(query.order_by(col(AverageEffect.layer))))


def build_curves(ranking: Ranking) -> list[Curve]:
    """Curves of the best score at each layer and of the trace's effects, scaled to the same axis."""
    best = ranking.best_at()
    trials = [best.get(layer) for layer in range(ranking.layers)]
    curves = [
        Curve(
            "score",
            tuple(trial.score["value"] if trial else None for trial in trials),
            tuple((trial.score["low"], trial.score["high"]) if trial else None for trial in trials),
            ranking.score_name,
        )
    ]
    if ranking.trace is not None:
        scale = scale_factor(ranking.effects)
        by_layer = {effect.layer: effect for effect in ranking.effects}
        effects = [by_layer.get(layer) for layer in range(ranking.layers)]
        curves.append(
            Curve(
                _KIND,
                tuple(scale * effect.mean if effect else None for effect in effects),
                tuple((scale * effect.low, scale * effect.high) if effect else None for effect in effects),
                f"MLP effect of trace {ranking.trace.id}{f' x{scale}' if scale > 1 else ''}",
            )
        )
    return curves


def scale_factor(effects: Sequence[AverageEffect]) -> int:
    """The largest of 1, 2, 5, 10, 20, .. that keeps the highest scaled effect at or below 1."""
    peak = max((effect.high for effect in effects), default=0.0)
    steps = [step * 10**power for power in range(4) for step in (1, 2, 5)]
    return max((step for step in steps if step * peak <= 1.0), default=1) if peak > 0 else 1
