"""Evaluate the methods on batches of requests. Each batch is written into the unedited starter model.

    python -m retcon.benchmarks.methods REQUESTS.json [METHOD[:BATCH][,SETTING=NUMBER ..] ..]

The default batch is one request; `memit:10` writes ten at once. The records of REQUESTS.json have subject, prompt
(with {}), target_new, target_true, paraphrases and neighbors. The metrics are teacher-forced. The covariances come
from TOKENS tokens (default 100,000) of the shipped texts.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from retcon.engine.covariance.collect import CollectionSettings, collect
from retcon.engine.covariance.corpus import open_corpus
from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS
from retcon.engine.edits.hparams.base import Hparams
from retcon.engine.edits.hparams.files import find_preset
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.evaluation.cases import Case, CaseResult, Neighbor
from retcon.engine.evaluation.run import evaluate, summarize
from retcon.engine.model.delta import Materializer
from retcon.engine.model.generation import sample_contexts
from retcon.engine.progress import silent
from retcon.store.catalog.tables import Fact
from retcon.store.facts.sets import read_fact_file

from .machine import load_starter

_TOKENS = int(os.environ.get("TOKENS", "100000"))


def main(path: Path, specs: list[str]) -> None:
    """Print a line of metrics for each method."""
    facts = [fact for fact in read_fact_file(path)[1] if fact.target_new]
    moments: dict[int, FactoredMoment] = {}
    for spec in specs:
        label, *settings = spec.split(",")
        method, _, batch = label.partition(":")
        hparams = find_preset("starter", method) or HPARAMS[method].parse({}, method)
        changes = (setting.split("=") for setting in settings)
        hparams = hparams.with_changes(**{name: json.loads(value) for name, value in changes})
        _collect_missing(moments, METHODS[method].layers(hparams))
        began = time.process_time()
        results = _evaluate_method(facts, method, hparams, moments, int(batch or 1))
        metrics = summarize(results, seed=1)
        numbers = "  ".join(f"{name} {metric.value:.3f}" for name, metric in metrics.items())
        print(f"{spec:8} n={len(results)}  {numbers}  {time.process_time() - began:.0f} CPU s", flush=True)


def _collect_missing(moments: dict[int, FactoredMoment], layers: Sequence[int]) -> None:
    """Add the second moments of the layers that `moments` does not have."""
    if missing := [layer for layer in layers if layer not in moments]:
        *_, last = collect(*load_starter(), open_corpus("shipped"), missing, CollectionSettings(_TOKENS))
        moments |= {layer: FactoredMoment(moment.matrix()) for layer, moment in last.moments.items()}


def _evaluate_method(
    facts: list[Fact], method: str, hparams: Hparams, moments: dict[int, FactoredMoment], size: int
) -> list[CaseResult]:
    """Write and evaluate the facts in batches of `size`."""
    decoder, tokenizer = load_starter()
    weights = Materializer(decoder.model)
    contexts = sample_contexts(decoder.model, tokenizer, hparams.contexts, seed=1)
    results: list[CaseResult] = []
    for begin in range(0, len(facts), size):
        batch = facts[begin : begin + size]
        requests = [Request(fact.subject, fact.prompt, fact.target_new or "") for fact in batch]
        edit = METHODS[method].write(
            EditTask(decoder, tokenizer, requests, moments, hparams, contexts, silent)
        )
        weights.set(edit.delta)
        cases = [
            Case(
                request.text,
                request.target_new,
                fact.target_true,
                tuple(fact.eval_paraphrases),
                tuple(Neighbor(neighbor["prompt"], neighbor["true"]) for neighbor in fact.neighbors),
            )
            for fact, request in zip(batch, requests, strict=True)
        ]
        results += evaluate(decoder, tokenizer, cases, max_new_tokens=0)
        weights.set({})
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(METHODS))
