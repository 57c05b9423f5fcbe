"""Write the same requests with many settings, score each, keep none; a finished trial is a row.

A method that writes one request after another is tried on each request alone, on the revision's own weights, as
`benchmarks/methods.py` does; one that writes them together is tried on all at once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from sqlmodel import select

from ....store.catalog.tables import Covariance, Sweep, SweepTrial
from ....store.facts import sets as fact_sets
from ...covariance.moments import FactoredMoment
from ...edits import HPARAMS, METHODS
from ...edits.method import EditTask, Method, Request
from ...edits.value_search import check_request
from ...errors import InputError
from ...evaluation.cases import CaseResult
from ...evaluation.intervals import compute_ranking_score
from ...evaluation.run import EvaluationSettings, evaluate, summarize
from ...model.delta import concatenate
from ...model.generation import sample_contexts
from ...progress import Progress, Report
from ..settings import Trial, check_method, plan_trials
from ..specs import EditSpec, SweepSpec
from ..worker.running import RunningJob
from .covariance import moment_of
from .edit import moments_at, past_edits
from .evaluation import case_of
from .loaded import Loaded, load

# A forward and a backward pass cost about three forward ones.
_PASSES_A_STEP = 3


def run(running: RunningJob, spec: SweepSpec) -> dict[str, Any]:
    """Returns the sweep's id."""
    check_method(spec.method)
    if not spec.requests:
        raise InputError("there is no fact to write: no request has a new target")
    trials = plan_trials(spec)
    if not trials:
        raise InputError("there is no layer to try")
    loaded = load(running, spec.model, spec.revision)
    bench = _Bench(running, spec, loaded, METHODS[spec.method])
    bench.check(trials)
    sweep = _begun(running, spec, bench, trials)
    with running.catalog.read() as session:
        query = select(SweepTrial.position).where(SweepTrial.sweep_id == sweep.id)
        finished = set(session.exec(query))
        bench.rows = {row.layer: row for row in (session.get_one(Covariance, id) for id in sweep.covariances)}
    work = _Work(running, spec, trials, loaded.decoder.layers, finished)
    for trial in trials:
        if trial.position not in finished:
            row = bench.attempt(trial, work.following(trial))
            row.sweep_id = sweep.id or 0
            with running.catalog.write() as session:
                session.add(row)
                running.checkpoint(session, {"sweep": sweep.id})
            work.end(trial)
    return {"sweep": sweep.id}


def _begun(running: RunningJob, spec: SweepSpec, bench: "_Bench", trials: Sequence[Trial]) -> Sweep:
    """The sweep that the job goes on with, or a new row; the covariances that it lacks are collected first."""
    known = running.job.checkpoint.get("sweep")
    if known is not None:
        with running.catalog.read() as session:
            return session.get_one(Sweep, known)
    layers = sorted({layer for trial in trials for layer in bench.method.layers(trial.hparams)})
    edit = EditSpec(spec.model, spec.requests, spec.revision, spec.method, texts=spec.texts, seed=spec.seed)
    moments = moments_at(running, edit, bench.loaded, layers)
    with running.catalog.write() as session:
        facts = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
        row = Sweep(
            model_id=bench.loaded.model.id or 0,
            revision=bench.loaded.revision.id,
            fact_set_id=facts.id if facts else None,
            trace_id=spec.trace,
            method=spec.method,
            hparams=spec.hparams,
            requests=spec.requests,
            covariances=[moment.id or 0 for moment in moments.values()],
            seed=spec.seed,
            trial_count=len(trials),
            protocol=EvaluationSettings(max_new_tokens=0).protocol(chat=False)
            | {
                "seed": spec.seed,
                "written": "each request alone" if bench.alone else "all requests together",
                "dtype": bench.loaded.model.dtype,
                "device": running.job.device,
            },
        )
        session.add(row)
        session.flush()
        running.checkpoint(session, {"sweep": row.id})
        return row


class _Bench:
    """The model at its revision, on which one trial after another is made and taken back."""

    def __init__(self, running: RunningJob, spec: SweepSpec, loaded: Loaded, method: Method[Any]) -> None:
        self.running, self.spec, self.loaded, self.method = running, spec, loaded, method
        self.rows: dict[int, Covariance] = {}
        self.alone = HPARAMS[spec.method].max_requests == 1
        self._requests = list(map(Request.from_dict, spec.requests))
        # What S is made of; the rest of an evaluation's questions would cost a sweep more than they tell it.
        self._cases = [replace(case_of(r), negations=(), portability=()) for r in spec.requests]
        self._past = past_edits(running, loaded.revision)
        self._contexts: dict[int, list[str]] = {}
        self._moments: dict[int, FactoredMoment] = {}

    def check(self, trials: Sequence[Trial]) -> None:
        """Refuse at once what a trial would refuse after hours.

        Raises:
            InputError: a layer that is not there, settings that the method does not take, an empty target.
        """
        for trial in trials:
            self.method.layers(trial.hparams)
            for request in self._requests:
                check_request(self.loaded.decoder, self.loaded.tokenizer, request, trial.last, trial.hparams)

    def attempt(self, trial: Trial, report: Report) -> SweepTrial:
        """Write, score, take back; the trial's row, not saved. What cannot be written says why."""
        row = SweepTrial(
            sweep_id=0, position=trial.position, layers=list(trial.hparams.layers), changes=trial.changes, seconds=0.0
        )  # fmt: skip
        began = time.monotonic()
        try:
            results = self._results(trial, report)
        except InputError as error:
            row.error = str(error)
        else:
            numbers = [result.metrics() for result in results]
            row.score = asdict(compute_ranking_score(numbers, self.spec.seed))
            row.metrics = {
                name: asdict(metric) for name, metric in summarize(results, self.spec.seed).items()
            }
        row.seconds = time.monotonic() - began
        return row

    def _results(self, trial: Trial, report: Report) -> list[CaseResult]:
        contexts, moments = self._contexts_for(trial), self._moments_for(trial)
        groups = [[i] for i in range(len(self._requests))] if self.alone else [range(len(self._requests))]
        results: list[CaseResult] = []
        for number, group in enumerate(groups):

            def part(progress: Progress, number: int = number) -> None:
                share = progress.done / progress.total if progress.total else 0.0
                report(Progress((number + share) / len(groups), 1.0, "", progress.activity))

            requests = [self._requests[i] for i in group]
            task = EditTask(
                self.loaded.decoder, self.loaded.tokenizer, requests, moments, trial.hparams, contexts, part,
                self._past, seed=self.spec.seed,
            )  # fmt: skip
            written = self.method.write(task)
            with self.loaded.holding(concatenate([self.loaded.delta, written.delta])):
                results += evaluate(
                    self.loaded.decoder, self.loaded.tokenizer, [self._cases[i] for i in group], 0
                )
        return results

    def _contexts_for(self, trial: Trial) -> list[str]:
        count = trial.hparams.contexts
        if count not in self._contexts:
            self._contexts[count] = sample_contexts(
                self.loaded.decoder.model, self.loaded.tokenizer, count, self.spec.seed
            )
        return self._contexts[count]

    def _moments_for(self, trial: Trial) -> Mapping[int, FactoredMoment]:
        """C of the trial's layers; the next trial may want the same ones, others are let go of."""
        known = self._moments
        self._moments = {
            layer: known[layer]
            if layer in known
            else FactoredMoment(partial(moment_of, self.running, self.rows[layer]))
            for layer in self.method.layers(trial.hparams)
        }
        return self._moments


@dataclass
class _Work:
    """How far a sweep is. Trials at low layers cost more, for a search runs only what lies above its layer."""

    running: RunningJob
    spec: SweepSpec
    trials: Sequence[Trial]
    layers: int
    finished: set[int]

    def following(self, trial: Trial) -> Report:
        """What the trial reports its own share to, in [0, 1]."""
        whole = sum(map(self._cost, self.trials))
        before = sum(self._cost(one) for one in self.trials if one.position in self.finished)
        place = f"trial {trial.position + 1}, layer {trial.last}"

        def report(progress: Progress) -> None:
            share = (before + progress.done * self._cost(trial)) / whole
            done = len(self.finished) + progress.done
            activity = f"{place}: {progress.activity}"
            self.running.report(Progress(done, len(self.trials), "trials", activity, share))

        return report

    def end(self, trial: Trial) -> None:
        """Count a trial as done."""
        self.finished.add(trial.position)

    def _cost(self, trial: Trial) -> float:
        """Blocks that the rows of one request climb: the search from its layer up, the evaluation through all."""
        hparams = trial.hparams
        search = _PASSES_A_STEP * hparams.steps * (hparams.contexts + 2) * (self.layers - trial.last)
        asked = sum(
            2 * (1 + len(r.get("eval_paraphrases") or ()) + len(r.get("neighbors") or ())) for r in self.spec.requests
        )  # fmt: skip
        return search + asked / len(self.spec.requests) * self.layers
