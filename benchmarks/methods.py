"""How well do the methods edit? Batches of requests on the starter model, each batch on the unedited weights.

    python benchmarks/methods.py REQUESTS.json [METHOD[:BATCH][,SETTING=NUMBER ..] ..]

A batch is one request by default; `memit:10` writes ten at once.

REQUESTS.json holds records with subject, prompt (with {}), target_new, target_true, paraphrases and neighbors.
Teacher-forced metrics; the covariance of the preset's layer from the shipped texts.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from retcon.engine.covariance.collect import CollectionSettings, collect
from retcon.engine.covariance.corpus import open_corpus
from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS
from retcon.engine.edits.hparams.files import find_preset
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.evaluation.cases import Case, Neighbor
from retcon.engine.evaluation.run import evaluate, summarize
from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Materializer
from retcon.engine.model.generation import sample_contexts
from retcon.engine.model.loading import fetch, load_model, load_tokenizer
from retcon.engine.progress import silent
from retcon.store.facts.sets import read_fact_file


def main(path: Path, names: list[str]) -> None:
    """Print a line of metrics per method."""
    facts = [fact for fact in read_fact_file(path)[1] if fact.target_new]
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch("starter", Path(folder) / "starter")
        model, tokenizer = load_model(fetched.folder, "cpu"), load_tokenizer(fetched.folder)
    decoder = Decoder(model, find_anatomy(model))
    weights = Materializer(model)
    moments: dict[int, FactoredMoment] = {}
    for spec in names:
        label, *settings = spec.split(",")
        name, _, batch = label.partition(":")
        method, hparams = METHODS[name], find_preset("starter", name) or HPARAMS[name].parse({}, name)
        hparams = hparams.with_changes(
            **{key: json.loads(value) for key, value in (s.split("=") for s in settings)}
        )
        missing = [layer for layer in method.layers(hparams) if layer not in moments]
        if missing:
            *_, last = collect(
                decoder, tokenizer, open_corpus("shipped"), missing, CollectionSettings(100_000)
            )
            moments |= {layer: FactoredMoment(moment.matrix()) for layer, moment in last.moments.items()}
        contexts = sample_contexts(model, tokenizer, hparams.contexts, seed=1)
        results, began = [], time.process_time()
        size = int(batch or 1)
        for begin in range(0, len(facts), size):
            some = facts[begin : begin + size]
            requests = [Request(fact.subject, fact.prompt, fact.target_new or "") for fact in some]
            written = method.write(EditTask(decoder, tokenizer, requests, moments, hparams, contexts, silent))
            weights.set(written.delta)
            cases = [
                Case(
                    request.text,
                    request.target_new,
                    fact.target_true,
                    tuple(fact.eval_paraphrases),
                    tuple(Neighbor(one["prompt"], one["true"]) for one in fact.neighbors),
                )
                for fact, request in zip(some, requests, strict=True)
            ]
            results += evaluate(decoder, tokenizer, cases, max_new_tokens=0)
            weights.set({})
        metrics = summarize(results, seed=1)
        numbers = "  ".join(f"{key} {metric.value:.3f}" for key, metric in metrics.items())
        print(f"{spec:8} n={len(results)}  {numbers}  {time.process_time() - began:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(METHODS))
