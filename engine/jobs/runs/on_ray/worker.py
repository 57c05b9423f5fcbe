"""What runs on a node: a process that holds the model and works on one shard after another. It writes nothing."""

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
    """A model at a revision, wherever its folder can be seen: what to load, and how to know that it is that."""

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
    """Those of retcon and of torch: with others the bits may differ."""
    return __version__, str(torch.__version__)


class Worker:
    """The actor. It loads in `load`, not when it is made, so that what is wrong is told as it is here."""

    def load(self, weights: Weights, budget: int) -> str:
        """Load the model and compare all of its weights with the catalog's; returns this node's name.

        Raises:
            InputError: other versions here, the folder is not seen from here, or it holds other weights.
        """
        host, folder = socket.gethostname(), Path(weights.folder)
        if versions() != weights.versions:
            raise InputError(
                f"node {host} has retcon and torch {' and '.join(versions())}, the job has "
                f"{' and '.join(weights.versions)}: install the same on all nodes"
            )
        if not folder.is_dir():
            raise InputError(
                f"node {host} does not see {folder}: put {weights.name} (or RETCON_HOME, if it lies there) where all "
                "nodes see it under the same path"
            )
        torch.set_num_threads(weights.threads)
        model = load_model(folder, weights.device, trust_remote_code=weights.trust_remote_code)
        digests = hash_parameters(model)
        _compare(host, folder, fingerprint(digests), weights.base)
        Materializer(model).set(weights.delta)
        touched = {name: hash_tensor(model.get_parameter(name)) for name in weights.delta}
        _compare(host, folder, fingerprint(digests | touched), weights.fingerprint)
        self._decoder = Decoder(model, Anatomy.from_dict(weights.anatomy))
        self._tokenizer = load_tokenizer(folder, weights.trust_remote_code)
        self._budget = Budget(self._decoder.device, budget)
        return host

    def fit(self, rule: NoiseRule, subjects: Sequence[str], texts: Corpus | None) -> Noise:
        """See engine.noise."""
        return fit_noise(rule, self._decoder, self._tokenizer, subjects, texts)

    def plan(self, questions: Sequence[TraceRequest], settings: TraceSettings) -> dict[int, int]:
        """See engine.trace."""
        return estimate_costs(self._decoder, self._tokenizer, questions, settings)

    def trace(
        self, questions: Sequence[TraceRequest], settings: TraceSettings
    ) -> list[tuple[int, FactTrace | SkippedPrompt]]:
        """One batch; where memory runs out, it is halved, here and for the batches that this process gets later."""
        return list(trace(self._decoder, self._tokenizer, questions, settings, self._budget))

    def read(
        self, rows: list[list[int]], layers: Sequence[int], probes: bool
    ) -> tuple[dict[int, np.ndarray], dict[int, list[np.ndarray]]]:
        """One block's sums, packed upper triangles, float32; with `probes` also one key per document."""
        sums = read_block(self._decoder, rows, layers)
        triangles = {layer: pack_triangle(total.cpu().numpy()) for layer, total in sums.sums.items()}
        middles = {layer: [keys.numpy() for keys in found] for layer, found in sums.middles.items()}
        return triangles, middles if probes else {}


def _compare(host: str, folder: Path, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"the weights that node {host} makes of {folder} have fingerprint {found[:12]}, they should have "
            f"{expected[:12]}: it sees another folder there, or multiplies differently"
        )
