"""Editing compared with the plain loops, in one run, on the starter model, and the memory of an edit.

    FACTS=known_facts.json make bench BENCH=edit

The batch of requests comes from the first records of FACTS (as for the benchmark `facts`): the target of each request
is the answer of the next record. The plain loop runs on every twentieth request, and its time is scaled. REQUESTS and
TOKENS set the number of requests and the tokens of the second moment.
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

# The tests compare the edits with the same plain versions.
from retcon.tests.helpers.oracles import plain_rome, plain_value

from .facts import KNOWN_FACTS
from .machine import load_starter, time_call

EIFFEL = Request("The Eiffel Tower", "{} is located in the city of", "Rome")
_REQUESTS, _EVERY = int(os.environ.get("REQUESTS", "100")), 20
_TOKENS = int(os.environ.get("TOKENS", "20000"))
# rome_main.py: ten texts of each of two lengths, and the bare prompt.
_PUBLISHED_CONTEXTS = 20


def run() -> dict[str, Any]:
    """Ratios of times, largest differences of losses, and memory."""
    decoder, tokenizer = load_starter()
    hparams = find_preset("starter", "rome")
    assert hparams is not None
    layer = hparams.layers[0]
    *_, last = collect(decoder, tokenizer, open_corpus("shipped"), [layer], CollectionSettings(_TOKENS))
    moment = last.moments[layer].matrix()
    contexts = sample_contexts(decoder.model, tokenizer, hparams.contexts, seed=1)
    published = sample_contexts(decoder.model, tokenizer, _PUBLISHED_CONTEXTS, seed=1)
    return {
        "edit": {
            "rome": _measure_rome(decoder, tokenizer, hparams, published, moment),
            "rome_with_few_contexts": _measure_rome(decoder, tokenizer, hparams, contexts, moment),
            "memit_values": _measure_values(decoder, tokenizer, contexts),
            "memory": _measure_memory(moment),
        }
    }


def _measure_rome(
    decoder: Any, tokenizer: Any, hparams: ValueSearchHparams, contexts: list[str], moment: torch.Tensor
) -> dict[str, Any]:
    layer = hparams.layers[0]

    def edit() -> Any:
        moments = {layer: FactoredMoment(moment)}
        return METHODS["rome"].write(
            EditTask(decoder, tokenizer, [EIFFEL], moments, hparams, contexts, silent)
        )

    def edit_plainly() -> Any:
        matrix = decoder.part("matrix", layer)
        return plain_rome(
            decoder.model, matrix, tokenizer, EIFFEL, hparams, contexts, moment, corrected=False
        )

    edit()  # The first edit allocates memory.
    seconds, result = time_call(edit, 3)
    plain_seconds, expected = time_call(edit_plainly, 2)
    factors = result.delta[decoder.anatomy.weight_name(layer)]
    change = factors.b.double() @ factors.a.double()
    return {
        "ratio": plain_seconds / seconds,
        "contexts": len(contexts),
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "steps": len(expected.losses),
        "loss_difference": _max_difference(result.figures[0]["losses"], expected.losses),
        "change_difference": ((change - expected.change).norm() / expected.change.norm()).item(),
    }


def _measure_values(decoder: Any, tokenizer: Any, contexts: list[str]) -> dict[str, Any]:
    path = Path(os.environ.get("FACTS", KNOWN_FACTS))
    if not path.exists():
        return {"skipped": f"no file {path}: name a file of known facts with FACTS"}
    facts = read_fact_file(path)[1][: _REQUESTS + 1]
    requests = [
        Request(fact.subject, fact.prompt, following.target_true or "") for fact, following in pairwise(facts)
    ]
    hparams = find_preset("starter", "memit")
    assert hparams is not None
    layer = hparams.layers[-1]
    task = EditTask(decoder, tokenizer, requests, {}, hparams, contexts, silent)
    seconds, values = time_call(lambda: find_values(task, layer, lambda *_: None, "block"))
    plain_seconds, differences = 0.0, []
    for value, request in list(zip(values, requests, strict=True))[::_EVERY]:
        began = time.perf_counter()
        expected = plain_value(decoder.model, decoder.blocks[layer], tokenizer, request, hparams, contexts)
        plain_seconds += time.perf_counter() - began
        differences.append(_max_difference(value.losses, expected.losses))
    plain_seconds *= len(requests) / len(differences)
    return {
        "ratio": plain_seconds / seconds,
        "seconds": seconds,
        "plain_seconds_scaled": plain_seconds,
        "requests": len(requests),
        "plain_requests": len(differences),
        "loss_difference": max(differences),
    }


def _measure_memory(moment: torch.Tensor) -> dict[str, Any]:
    """Resident memory of a new process per method: with the loaded model, and the peak during the edit."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        model, file = fetch("starter", Path(folder) / "starter").folder, Path(folder) / "moment.safetensors"
        save_file({"moment": moment}, file)
        for method in ("rome", "memit", "joint"):
            process = subprocess.run(
                [sys.executable, "-m", "retcon.benchmarks.edit_memory", str(model), method, str(file)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            figures[method] = json.loads(process.stdout.splitlines()[-1])
    return figures


def _max_difference(losses: list[dict[str, float]], expected: list[float]) -> float:
    """The largest relative difference of two loss curves."""
    pairs = list(zip([step["loss"] for step in losses], expected, strict=True))
    return max(abs(a - b) / max(abs(b), 1.0) for a, b in pairs)
