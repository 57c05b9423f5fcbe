"""What a sweep says: its trials by rank, the best one of each layer, and the trace's effects at the same layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from ...store.catalog.tables import AverageEffect, Model, Sweep, SweepTrial, Trace
from ...store.errors import InputError, NotFound
from ..presentation.curves import Curve

_ROLE, _KIND = "last subject", "mlp"


@dataclass(frozen=True)
class Ranking:
    """A sweep as it is now. `ranked` are the trials that wrote, best first; `refused` those that could not."""

    sweep: Sweep
    model: Model
    ranked: list[SweepTrial]
    refused: list[SweepTrial]
    trace: Trace | None
    effects: list[AverageEffect]

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(self.model.anatomy["layers"])

    @property
    def score_name(self) -> str:
        """What the trials are ranked by: S, or what the facts allow instead of it."""
        of = self.ranked[0].score["of"] if self.ranked else ["ES", "PS", "NS"]
        if of == ["ES", "PS", "NS"]:
            return "S"
        return of[0] if len(of) == 1 else f"mean of {', '.join(of)}"

    @property
    def tried(self) -> list[str]:
        """The settings of which several values were tried."""
        return list(self.ranked[0].changes) if self.ranked else []

    @property
    def winner(self) -> SweepTrial:
        """The best trial. Raises InputError if no trial is done."""
        if not self.ranked:
            why = f": {self.refused[0].error}" if self.refused else "; wait for its job"
            raise InputError(f"sweep {self.sweep.id} has no finished trial{why}")
        return self.ranked[0]

    def best_at(self) -> dict[int, SweepTrial]:
        """The best trial of each layer tried; a trial of several layers stands at its last."""
        best: dict[int, SweepTrial] = {}
        for trial in self.ranked:
            best.setdefault(trial.layers[-1], trial)
        return best

    def notes(self) -> list[str]:
        """What to keep in mind."""
        notes = []
        cases = len(self.sweep.requests)
        if self.ranked and (of := self.ranked[0].score["of"]) != ["ES", "PS", "NS"]:
            notes.append(
                f"S needs a true target, paraphrases and neighbors of each fact; these facts allow {', '.join(of)}, "
                "so the rank is by their harmonic mean."
            )
        top = [trial for trial in self.ranked if trial.score["high"] >= self.ranked[0].score["low"]]
        if len(top) > 1:
            notes.append(
                f"{len(top)} trials' intervals reach the best one's: over {cases} facts they are not told apart."
            )
        if self.trace is not None and self.trace.revision != self.sweep.revision:
            notes.append(f"trace {self.trace.id} is of revision {self.trace.revision}, not of the one swept")
        missing = self.sweep.trial_count - len(self.ranked) - len(self.refused)
        if missing:
            notes.append(f"{missing} of {self.sweep.trial_count} trials are not done")
        return notes


def ranking(session: Session, id: int, trace: int | None = None) -> Ranking:
    """A sweep with the effects of `trace`, else of the trace that it names, else of the model's newest over a set.

    Raises:
        NotFound: no such sweep or trace.
        InputError: that trace has no MLP effects at the last subject token, or is another model's.
    """
    sweep = session.get(Sweep, id)
    if sweep is None:
        raise NotFound(f"there is no sweep {id}; `retcon sweep list` shows those there are")
    trials = list(session.exec(select(SweepTrial).where(SweepTrial.sweep_id == id)))
    named = trace or sweep.trace_id
    model = session.get_one(Model, sweep.model_id)
    found = named_trace(session, named, model) if named else _newest_trace(session, model)
    return Ranking(
        sweep,
        model,
        sorted((trial for trial in trials if trial.error is None), key=_rank),
        [trial for trial in trials if trial.error is not None],
        found,
        effects_at_subject(session, found) if found else [],
    )


def _rank(trial: SweepTrial) -> tuple[float, float, int]:
    """The best first; equal scores by the differences of probability that they were counted from, then in order."""
    magnitudes = sum(trial.metrics[name]["value"] for name in ("EM", "PM", "NM") if name in trial.metrics)
    return -trial.score["value"], -magnitudes, trial.position


def named_trace(session: Session, id: int, model: Model) -> Trace:
    """A trace of this model that can be drawn beside scores. Raises NotFound, InputError."""
    trace = session.get(Trace, id)
    if trace is None:
        raise NotFound(f"there is no trace {id}; `retcon trace list` shows those there are")
    if trace.model_id != model.id:
        raise InputError(f"trace {id} is of another model than {model.name}")
    if not effects_at_subject(session, trace):
        raise InputError(
            f"trace {id} has no average effects of mlp at the {_ROLE} token; trace a set of facts"
        )
    return trace


def _newest_trace(session: Session, model: Model) -> Trace | None:
    of_sets = select(Trace).where(Trace.model_id == model.id, col(Trace.fact_set_id).is_not(None))
    traces = session.exec(of_sets.order_by(col(Trace.id).desc()))
    return next((trace for trace in traces if effects_at_subject(session, trace)), None)


def effects_at_subject(session: Session, trace: Trace) -> list[AverageEffect]:
    """The average effects of the MLP at the last subject token, by layer."""
    query = select(AverageEffect).where(
        AverageEffect.trace_id == trace.id, AverageEffect.kind == _KIND, AverageEffect.role == _ROLE
    )
    return list(session.exec(query.order_by(col(AverageEffect.layer))))


def curves_of(found: Ranking) -> list[Curve]:
    """The best score at each layer and, enlarged to the same scale, the trace's effects."""
    best = found.best_at()
    trials = [best.get(layer) for layer in range(found.layers)]
    curves = [
        Curve(
            "score",
            tuple(trial.score["value"] if trial else None for trial in trials),
            tuple((trial.score["low"], trial.score["high"]) if trial else None for trial in trials),
            found.score_name,
        )
    ]
    if found.trace is not None:
        times = enlargement(found.effects)
        by_layer = {effect.layer: effect for effect in found.effects}
        effects = [by_layer.get(layer) for layer in range(found.layers)]
        curves.append(
            Curve(
                _KIND,
                tuple(times * effect.mean if effect else None for effect in effects),
                tuple((times * effect.low, times * effect.high) if effect else None for effect in effects),
                f"MLP effect of trace {found.trace.id}{f' x{times}' if times > 1 else ''}",
            )
        )
    return curves


def enlargement(effects: Sequence[AverageEffect]) -> int:
    """The largest of 1, 2, 5, 10, 20, .. that keeps the highest effect at or below 1."""
    peak = max((effect.high for effect in effects), default=0.0)
    steps = [step * 10**power for power in range(4) for step in (1, 2, 5)]
    return max((step for step in steps if step * peak <= 1.0), default=1) if peak > 0 else 1
