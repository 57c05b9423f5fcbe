"""Editing against the plain loops, in one run, on the starter model; and what an edit adds to the model's memory.

    FACTS=known_facts.json make bench BENCH=edit

The requests of the batch are made from the first hundred records of FACTS (as for the benchmark `facts`): each is asked
for the answer of the next. The plain loop runs on every twentieth of them, one at a time, and its time is scaled.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from retcon.engine.covariance.collect import CollectionSettings, collect
from retcon.engine.covariance.corpus import open_corpus
from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import METHODS
from retcon.engine.edits.hparams.base import ValueSearchHparams
from retcon.engine.edits.hparams.files import find_preset
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.edits.value_search import find_values
from retcon.engine.model.generation import sample_contexts
from retcon.engine.model.loading import fetch
from retcon.engine.progress import silent
from retcon.store.facts.sets import read_fact_file

# The plain version is the one that the tests hold the fast one against.
from retcon.tests.helpers.oracles import plain_rome, plain_value

from .facts import KNOWN_FACTS
from .machine import starter

EIFFEL = Request("The Eiffel Tower", "{} is located in the city of", "Rome")
_REQUESTS, _EVERY = 100, 20
# rome_main.py: ten texts of each of two lengths, and the bare prompt.
_PUBLISHED_CONTEXTS = 20


def run() -> dict[str, Any]:
    """Ratios of times, largest differences of the losses, and of memory."""
    decoder, tokenizer = starter()
    hparams = find_preset("starter", "rome")
    assert hparams is not None
    layer = hparams.layers[0]
    *_, last = collect(decoder, tokenizer, open_corpus("shipped"), [layer], CollectionSettings(20_000))
    moment = last.moments[layer].matrix()
    contexts = sample_contexts(decoder.model, tokenizer, hparams.contexts, seed=1)
    published = sample_contexts(decoder.model, tokenizer, _PUBLISHED_CONTEXTS, seed=1)
    return {
        "edit": {
            "rome": _rome(decoder, tokenizer, hparams, published, moment),
            "rome_with_few_contexts": _rome(decoder, tokenizer, hparams, contexts, moment),
            "memit_values": _values(decoder, tokenizer, contexts),
            "memory": _memory(moment),
        }
    }


def _rome(
    decoder: Any, tokenizer: Any, hparams: ValueSearchHparams, contexts: list[str], moment: torch.Tensor
) -> dict[str, Any]:
    layer = hparams.layers[0]

    def ours() -> Any:
        moments = {layer: FactoredMoment(moment)}
        return METHODS["rome"].write(
            EditTask(decoder, tokenizer, [EIFFEL], moments, hparams, contexts, silent)
        )

    def theirs() -> Any:
        matrix = decoder.part("matrix", layer)
        return plain_rome(
            decoder.model, matrix, tokenizer, EIFFEL, hparams, contexts, moment, corrected=False
        )

    ours()  # the first pays for allocations
    fast, written = _best(ours, 3)
    plain, expected = _best(theirs, 2)
    factors = written.delta[decoder.anatomy.weight_name(layer)]
    change = factors.b.double() @ factors.a.double()
    return {
        "ratio": plain / fast,
        "contexts": len(contexts),
        "seconds": fast,
        "plain_seconds": plain,
        "steps": len(expected.losses),
        "loss_difference": _difference(written.figures[0]["losses"], expected.losses),
        "change_difference": ((change - expected.change).norm() / expected.change.norm()).item(),
    }


def _values(decoder: Any, tokenizer: Any, contexts: list[str]) -> dict[str, Any]:
    path = Path(os.environ.get("FACTS", KNOWN_FACTS))
    if not path.exists():
        return {"skipped": f"no file {path}; name one with FACTS"}
    facts = read_fact_file(path)[1][: _REQUESTS + 1]
    requests = [
        Request(fact.subject, fact.prompt, after.target_true or "") for fact, after in pairwise(facts)
    ]
    hparams = find_preset("starter", "memit")
    assert hparams is not None
    layer = hparams.layers[-1]
    block = decoder.blocks[layer]
    began = time.perf_counter()
    task = EditTask(decoder, tokenizer, requests, {}, hparams, contexts, silent)
    found = find_values(task, layer, lambda *_: None, "block")
    fast = time.perf_counter() - began
    plain, differences = 0.0, []
    for number in range(0, _REQUESTS, _EVERY):
        began = time.perf_counter()
        expected = plain_value(decoder.model, block, tokenizer, requests[number], hparams, contexts)
        plain += (time.perf_counter() - began) * _EVERY
        differences.append(_difference(found[number].losses, expected.losses))
    return {
        "ratio": plain / fast,
        "seconds": fast,
        "plain_seconds_scaled": plain,
        "requests": len(requests),
        "plain_requests": _REQUESTS // _EVERY,
        "loss_difference": max(differences),
    }


def _memory(moment: torch.Tensor) -> dict[str, Any]:
    """Resident memory of a process of its own: with the model loaded and run once, and at most while it edits."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        model, file = fetch("starter", Path(folder) / "starter").folder, Path(folder) / "moment.safetensors"
        save_file({"moment": moment}, file)
        for method in ("rome", "memit", "joint"):
            done = subprocess.run(
                [sys.executable, "-m", "retcon.benchmarks.edit_memory", str(model), method, str(file)],
                check=True,
                capture_output=True,
                text=True,
            )
            figures[method] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _difference(losses: list[dict[str, float]], expected: list[float]) -> float:
    """The largest relative difference of two loss curves."""
    pairs = list(zip([step["loss"] for step in losses], expected, strict=True))
    return max(abs(a - b) / max(abs(b), 1.0) for a, b in pairs)


def _best(work: Any, times: int) -> tuple[float, Any]:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
    return min(seconds), result
