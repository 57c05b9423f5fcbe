"""A worker on a node: a process that holds the model and runs one shard after another. It writes no files."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..... import __version__
from .....store.exchange.covariance import pack_triangle
from ....covariance.collect import read_block
from ....covariance.corpus import Corpus
from ....errors import InputError
from ....model.anatomy import Anatomy
from ....model.decoder import Decoder
from ....model.delta import Delta, Materializer
from ....model.loading import fingerprint, hash_parameters, hash_tensor, load_model, load_tokenizer
from ....model.memory import Budget
from ....tracing.noise import Noise, fit_noise
from ....tracing.rules import NoiseRule
from ....tracing.trace import FactTrace, SkippedPrompt, TraceRequest, TraceSettings, estimate_costs, trace


@dataclass(frozen=True)
class Weights:
    """A model at a revision: its folder, and the fingerprints of the base and of the revision."""

    name: str
    folder: str
    trust_remote_code: bool
    anatomy: dict[str, Any]
    base: str
    delta: Delta
    fingerprint: str
    device: str
    threads: int
    versions: tuple[str, str]


def versions() -> tuple[str, str]:
    """The versions of retcon and torch. Different ones may give different bits."""
    return __version__, str(torch.__version__)


class Worker:
    """The Ray actor. `load` loads the model, not the constructor, so that its errors reach the pool unchanged."""

    def load(self, weights: Weights, budget: int) -> str:
        """Load the model, compare all its weights with the catalog, and return the node's name.

        Raises:
            InputError: this node has other versions, does not have the folder, or has other weights in it.
        """
        host, folder = socket.gethostname(), Path(weights.folder)
        if versions() != weights.versions:
            raise InputError(
                f"Node {host} has retcon and torch {' and '.join(versions())}, the job has "
                f"{' and '.join(weights.versions)}. Install the same versions on all nodes."
            )
        if not folder.is_dir():
            raise InputError(
                f"Node {host} does not have {folder}. Put {weights.name} (or RETCON_HOME, if the model is in it) on a "
                "disk that all nodes mount at the same path."
            )
        torch.set_num_threads(weights.threads)
        model = load_model(folder, weights.device, trust_remote_code=weights.trust_remote_code)
        digests = hash_parameters(model)
        _compare(host, folder, fingerprint(digests), weights.base)
        Materializer(model).set(weights.delta)
        changed = {name: hash_tensor(model.get_parameter(name)) for name in weights.delta}
        _compare(host, folder, fingerprint(digests | changed), weights.fingerprint)
        self._decoder = Decoder(model, Anatomy(**weights.anatomy))
        self._tokenizer = load_tokenizer(folder, weights.trust_remote_code)
        self._budget = Budget(self._decoder.device, budget)
        return host

    def fit(self, rule: NoiseRule, subjects: Sequence[str], texts: Corpus | None) -> Noise:
        """Fit a noise rule, see engine.tracing.noise."""
        return fit_noise(rule, self._decoder, self._tokenizer, subjects, texts)

    def plan(self, requests: Sequence[TraceRequest], settings: TraceSettings) -> dict[int, int]:
        """Estimate the cost of each request, see engine.tracing.trace.estimate_costs."""
        return estimate_costs(self._decoder, self._tokenizer, requests, settings)

    def trace(
        self, requests: Sequence[TraceRequest], settings: TraceSettings
    ) -> list[tuple[int, FactTrace | SkippedPrompt]]:
        """Trace one batch. If memory runs out, this and later batches of this process are halvings."""
        return list(trace(self._decoder, self._tokenizer, requests, settings, self._budget))

    def read(
        self, rows: list[list[int]], layers: Sequence[int], probes: bool
    ) -> tuple[dict[int, np.ndarray], dict[int, list[np.ndarray]]]:
        """One block's sums by layer, packed upper triangles, float32. With `probes` also one key per document."""
        sums = read_block(self._decoder, rows, layers)
        triangles = {layer: pack_triangle(total.cpu().numpy()) for layer, total in sums.sums.items()}
        keys = {layer: [key.numpy() for key in found] for layer, found in sums.middles.items()}
        return triangles, keys if probes else {}


def _compare(host: str, folder: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise InputError(
            f"On node {host} the weights of {folder} have fingerprint {actual[:12]}, expected {expected[:12]}. "
            "The node has another folder at this path, or multiplies differently."
        )
