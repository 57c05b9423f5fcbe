"""How well do the methods edit? One request at a time on the starter model, each on the unedited weights.

    python benchmarks/methods.py REQUESTS.json [METHOD ..]

REQUESTS.json holds records with subject, prompt (with {}), target_new, target_true, paraphrases and neighbours.
Teacher-forced metrics; the covariance of the preset's layer from the shipped texts.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from retcon.engine.anatomy import find_anatomy
from retcon.engine.corpus import open_corpus
from retcon.engine.covariance import collect
from retcon.engine.decoder import Decoder
from retcon.engine.delta import Materialiser
from retcon.engine.edits import METHODS, Request
from retcon.engine.evaluation import Case, Neighbour, evaluate, summarise
from retcon.engine.generation import context_texts
from retcon.engine.hparams import preset
from retcon.engine.loading import fetch, load_model, load_tokenizer
from retcon.engine.progress import silent
from retcon.store.facts import read_facts


def main(path: Path, names: list[str]) -> None:
    """Print a line of metrics per method."""
    facts = [fact for fact in read_facts(path) if fact.target_new]
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch("starter", Path(folder) / "starter")
        model, tokenizer = load_model(fetched.folder, "cpu"), load_tokenizer(fetched.folder)
    decoder = Decoder(model, find_anatomy(model))
    weights = Materialiser(model)
    moments: dict[int, torch.Tensor] = {}
    for name in names:
        method, hparams = METHODS[name], preset("starter", name)
        assert hparams is not None
        missing = [layer for layer in method.layers(hparams) if layer not in moments]
        if missing:
            *_, last = collect(
                decoder, tokenizer, open_corpus("shipped"), missing, max_tokens=100_000, max_length=512
            )
            moments |= {layer: moment.matrix() for layer, moment in last.moments.items()}
        contexts = context_texts(model, tokenizer, hparams.contexts, seed=1)
        results, began = [], time.process_time()
        for fact in facts:
            request = Request(fact.subject, fact.prompt, fact.target_new or "")
            written = method.write(decoder, tokenizer, [request], moments, hparams, contexts, silent)
            weights.set(written.delta)
            neighbours = tuple(Neighbour(one["prompt"], one["true"]) for one in fact.neighbours)
            case = Case(
                request.text, request.target_new, fact.target_true, tuple(fact.paraphrases), neighbours
            )
            results += evaluate(decoder, tokenizer, [case], max_new_tokens=0)
            weights.set({})
        metrics = summarise(results, seed=1)
        numbers = "  ".join(f"{key} {metric.value:.3f}" for key, metric in metrics.items())
        print(f"{name:8} n={len(results)}  {numbers}  {time.process_time() - began:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(METHODS))
