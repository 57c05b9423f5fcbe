"""Write the same requests with many settings and score each trial. No edit is saved, and a finished trial is a row.

A method that writes one request at a time is tried on each request alone, on the revision's weights, as
`benchmarks/methods.py` does. Other methods are tried on all requests together.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from sqlmodel import select

from ....store.catalog.tables import Covariance, Sweep, SweepTrial
from ....store.facts import sets as fact_sets
from ...covariance.moments import FactoredMoment
from ...edits import HPARAMS, METHODS
from ...edits.method import EditTask, Request
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
from .covariance import factored_moment
from .edit import find_covariances, load_past_edits
from .evaluation import build_case
from .loaded import Loaded, load

# A forward and a backward pass cost about as much as three forward passes.
_PASSES_PER_STEP = 3


def run(running: RunningJob, spec: SweepSpec) -> dict[str, Any]:
    """Run the trials that are not finished. Returns the sweep's id."""
    check_method(spec.method)
    if not spec.requests:
        raise InputError("No request has a new target, so there is no fact to write.")
    trials = plan_trials(spec)
    if not trials:
        raise InputError("The sweep has no layer to try.")
    loaded = load(running, spec.model, spec.revision)
    job = _SweepJob(running, spec, loaded)
    job.check(trials)
    sweep = _load_or_create(running, spec, job, trials)
    with running.catalog.read() as session:
        query = select(SweepTrial.position).where(SweepTrial.sweep_id == sweep.id)
        finished = set(session.exec(query))
        rows = [session.get_one(Covariance, id) for id in sweep.covariances]
        job.covariances = {row.layer: row for row in rows}
    progress = _SweepProgress(running, spec, trials, loaded.decoder.layers, finished)
    for trial in trials:
        if trial.position not in finished:
            row = job.run_trial(trial, progress.trial_report(trial))
            row.sweep_id = sweep.id or 0
            with running.catalog.write() as session:
                session.add(row)
                running.checkpoint(session, {"sweep": sweep.id})
            finished.add(trial.position)
    return {"sweep": sweep.id}


def _load_or_create(running: RunningJob, spec: SweepSpec, job: "_SweepJob", trials: Sequence[Trial]) -> Sweep:
    """The sweep that the job continues, or a new row. Missing covariances are collected first."""
    known = running.job.checkpoint.get("sweep")
    if known is not None:
        with running.catalog.read() as session:
            return session.get_one(Sweep, known)
    layers = sorted({layer for trial in trials for layer in job.method.layers(trial.hparams)})
    edit = EditSpec(spec.model, spec.requests, spec.revision, spec.method, texts=spec.texts, seed=spec.seed)
    covariances = find_covariances(running, edit, job.loaded, layers)
    with running.catalog.write() as session:
        facts = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
        row = Sweep(
            model_id=job.loaded.model.id or 0,
            revision=job.loaded.revision.id,
            fact_set_id=facts.id if facts else None,
            trace_id=spec.trace,
            method=spec.method,
            hparams=spec.hparams,
            requests=spec.requests,
            covariances=[one.id or 0 for one in covariances.values()],
            seed=spec.seed,
            trial_count=len(trials),
            protocol=EvaluationSettings(max_new_tokens=0).protocol(chat=False)
            | {
                "seed": spec.seed,
                "written": "each request alone" if job.is_one_by_one else "all requests together",
                "dtype": job.loaded.model.dtype,
                "device": running.job.device,
            },
        )
        session.add(row)
        session.flush()
        running.checkpoint(session, {"sweep": row.id})
        return row


class _SweepJob:
    """The model at the sweep's revision. Each trial changes its weights and restores them."""

    def __init__(self, running: RunningJob, spec: SweepSpec, loaded: Loaded) -> None:
        self.running, self.spec, self.loaded, self.method = running, spec, loaded, METHODS[spec.method]
        self.covariances: dict[int, Covariance] = {}
        self.is_one_by_one = HPARAMS[spec.method].max_requests == 1
        self._requests = list(map(Request.from_dict, spec.requests))
        # Only the prompts that S needs. The others would take too long for a sweep.
        self._cases = [replace(build_case(one), negations=(), portability=()) for one in spec.requests]
        self._past = load_past_edits(running, loaded.revision)
        model, tokenizer = loaded.decoder.model, loaded.tokenizer
        # By their number: trials with the same number share them.
        self._contexts = cache(lambda count: sample_contexts(model, tokenizer, count, spec.seed))
        self._moments: dict[int, FactoredMoment] = {}

    def check(self, trials: Sequence[Trial]) -> None:
        """Check all trials before the first one runs.

        Raises:
            InputError: a layer is out of range, the method does not accept a setting, or a target is empty.
        """
        for trial in trials:
            self.method.layers(trial.hparams)
            for request in self._requests:
                check_request(self.loaded.decoder, self.loaded.tokenizer, request, trial.last, trial.hparams)

    def run_trial(self, trial: Trial, report: Report) -> SweepTrial:
        """Write and score a trial. Returns its row, unsaved, with an error if it cannot be written."""
        row = SweepTrial(
            sweep_id=0, position=trial.position, layers=list(trial.hparams.layers), changes=trial.changes, seconds=0.0
        )  # fmt: skip
        begin = time.monotonic()
        try:
            results = self._results(trial, report)
        except InputError as error:
            row.error = str(error)
        else:
            metrics, seed = [result.metrics() for result in results], self.spec.seed
            row.score = asdict(compute_ranking_score(metrics, seed))
            row.metrics = {name: asdict(metric) for name, metric in summarize(results, seed).items()}
        row.seconds = time.monotonic() - begin
        return row

    def _results(self, trial: Trial, report: Report) -> list[CaseResult]:
        loaded, contexts = self.loaded, self._contexts(trial.hparams.contexts)
        # Those that the previous trial used too are kept in memory.
        previous = self._moments
        moments = self._moments = {
            layer: previous.get(layer) or factored_moment(self.running, self.covariances[layer])
            for layer in self.method.layers(trial.hparams)
        }
        numbers = range(len(self._requests))
        groups = [[number] for number in numbers] if self.is_one_by_one else [list(numbers)]
        results: list[CaseResult] = []
        for done, group in enumerate(groups):

            def report_share(progress: Progress, done: int = done) -> None:
                share = progress.done / progress.total if progress.total else 0.0
                report(replace(progress, done=(done + share) / len(groups), total=1.0, unit="", share=None))

            requests = [self._requests[i] for i in group]
            task = EditTask(
                loaded.decoder, loaded.tokenizer, requests, moments, trial.hparams, contexts, report_share,
                self._past, seed=self.spec.seed,
            )  # fmt: skip
            result = self.method.write(task)
            with loaded.holding(concatenate([loaded.delta, result.delta])):
                results += evaluate(loaded.decoder, loaded.tokenizer, [self._cases[i] for i in group], 0)
        return results


@dataclass(frozen=True)
class _SweepProgress:
    """The progress of a sweep. Trials at low layers cost more, since a search runs the blocks above its layer."""

    running: RunningJob
    spec: SweepSpec
    trials: Sequence[Trial]
    layers: int
    finished: set[int]

    def trial_report(self, trial: Trial) -> Report:
        """The function to which a trial reports its own share in [0, 1]."""
        total = sum(map(self._cost, self.trials))
        before = sum(self._cost(one) for one in self.trials if one.position in self.finished)
        place = f"trial {trial.position + 1}, layer {trial.last}"

        def report(progress: Progress) -> None:
            share = (before + progress.done * self._cost(trial)) / total
            done = len(self.finished) + progress.done
            detail = ", ".join(filter(None, (progress.activity, progress.detail)))
            self.running.report(Progress(done, len(self.trials), "trials", place, detail, share))

        return report

    def _cost(self, trial: Trial) -> float:
        """Blocks times rows per request: the search runs from its layer up, the evaluation through all layers."""
        hparams = trial.hparams
        search = _PASSES_PER_STEP * hparams.steps * (hparams.contexts + 2) * (self.layers - trial.last)
        prompts = sum(
            2 * (1 + len(one.get("eval_paraphrases") or ()) + len(one.get("neighbors") or ()))
            for one in self.spec.requests
        )
        return search + prompts / len(self.spec.requests) * self.layers
