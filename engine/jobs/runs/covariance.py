"""Collect second moments, or go on with those of the catalog; a block of documents is what a resumed job goes on from.

The file of a covariance holds, beside `total`, what more text is added to: `whole`, the sums of the blocks that were
read whole (left out where it is the same), `place`, the probes and directions of `Convergence`.
The sums are packed upper triangles; all numbers but the place are float64.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sqlmodel import col, select
from transformers import PreTrainedTokenizerBase

from ....store.catalog.tables import Covariance, Model
from ....store.errors import NotFound
from ....store.exchange.covariance import load_sum, pack_triangle, unpack_triangle
from ....store.maintenance.references import find_references
from ...covariance.collect import (
    BlockReader,
    CollectionSettings,
    CollectionState,
    SecondMoment,
    collect_with,
    read_in_process,
)
from ...covariance.convergence import Convergence, ConvergencePoint
from ...covariance.corpus import Corpus, open_corpus
from ...errors import InputError
from ...model.anatomy import Anatomy
from ...model.tokens import hash_tokenizer
from ...progress import Report
from ..devices import is_on_ray
from ..specs import CovarianceSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load

# The sums are large, 4 bytes x key_width^2 a layer: of the time one part in so many goes into saving them.
_CHECKPOINT_PART = 20
# What a checkpoint has of them.
_SUMS = ("moments", "tokens", "texts_revision")

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reading:
    """A model that reads texts, wherever its weights are; `report` is told how far it is."""

    model: Model
    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    read: BlockReader
    report: Report

    @classmethod
    def here(cls, running: RunningJob, loaded: Loaded) -> Self:
        """A model in this process."""
        decoder = loaded.decoder
        return cls(
            loaded.model, decoder.anatomy, loaded.tokenizer, partial(read_in_process, decoder), running.report
        )


def run(running: RunningJob, spec: CovarianceSpec) -> dict[str, Any]:
    """Returns the ids of the new covariances, one per layer; `covariance` is the first."""
    with _reading(running, spec) as reading:
        ids = collect_into_catalog(
            running,
            reading,
            spec.layers,
            spec.texts,
            max_tokens=spec.max_tokens,
            max_length=spec.max_length,
            seed=spec.seed,
            tolerance=spec.tolerance,
            extends=spec.extends,
            last=True,
        )
    return _made(ids)


@contextmanager
def _reading(running: RunningJob, spec: CovarianceSpec) -> Iterator[Reading]:
    if not is_on_ray(running.job.device):
        yield Reading.here(running, load(running, spec.model, "base"))
        return
    from .on_ray.covariance import remote_reader
    from .on_ray.model import open_remote_model

    with open_remote_model(running, spec.model, "base", spec.threads, "tokens") as remote:
        yield Reading(
            remote.model, remote.anatomy, remote.tokenizer, remote_reader(remote), remote.pool.report
        )


def _made(ids: list[int]) -> dict[str, Any]:
    return {"covariance": ids[0], "covariances": ids}


def collect_into_catalog(
    running: RunningJob,
    reading: Reading,
    layers: Sequence[int],
    texts: str,
    *,
    max_tokens: int,
    max_length: int,
    seed: int,
    tolerance: float | None = None,
    extends: Sequence[int] = (),
    last: bool = False,
) -> list[int]:
    """Collect the moments of `layers` and save one row each; goes on from the job's checkpoint, else from `extends`.

    `last` says that they are all that the job makes.

    Raises:
        InputError: what shall be extended is of other texts, another tokenizer or base, or the texts hold no more.
    """
    corpus = open_corpus(texts)
    layers = sorted(set(layers))
    width = reading.anatomy.key_width
    running.check_room(2 * 8 * width * width * len(layers))
    earlier = _earlier(running, reading, corpus, extends)
    saved, took = time.monotonic(), 0.0
    state = None
    for state in collect_with(
        reading.read,
        reading.anatomy,
        reading.tokenizer,
        corpus,
        layers,
        CollectionSettings(max_tokens, max_length, seed, tolerance),
        start=_restored(running, corpus, layers, width) or _state_of(running, earlier),
        report=reading.report,
    ):
        begun = time.monotonic()
        if not state.is_finished and begun - saved > _CHECKPOINT_PART * took:
            _save_checkpoint(running, corpus, state)
            saved = time.monotonic()
            took = saved - begun
    assert state is not None  # the last block is always yielded
    if earlier and state.tokens <= earlier[0].tokens:
        raise InputError(
            f"{corpus.source} holds no more text: all of its {state.documents:,} documents have been read"
        )
    running.report_activity("saving")
    artifacts = [running.catalog.artifacts.put_tensors(_file(state, layer)) for layer in state.moments]
    rows = [
        Covariance(
            model_id=reading.model.id or 0,
            layer=layer,
            module=reading.anatomy.module_name("matrix", layer),
            width=width,
            fingerprint=reading.model.fingerprint,
            tokenizer=hash_tokenizer(reading.tokenizer),
            texts=corpus.source,
            texts_revision=corpus.revision,
            seed=seed,
            tokens=moment.tokens,
            documents=state.documents,
            max_length=max_length,
            dtype=reading.model.dtype,
            curve=[asdict(point) for point in moment.convergence.curve],
            origin=next(({"extends": row.id} for row in earlier if row.layer == layer), {}),
            artifact=artifact.sha256,
        )
        for (layer, moment), artifact in zip(state.moments.items(), artifacts, strict=True)
    ]
    with running.catalog.write(durable=True) as session:
        for artifact in artifacts:
            session.merge(artifact)
        session.add_all(rows)
        session.flush()
        ids = [row.id or 0 for row in rows]
        # In the same transaction: for an edit the sums so far are of no more use, its cataloged rows are.
        if last:
            running.commit_result(session, _made(ids))
        else:
            others = {name: value for name, value in running.job.checkpoint.items() if name not in _SUMS}
            running.checkpoint(session, others)
    return ids


def _file(state: CollectionState, layer: int) -> dict[str, np.ndarray]:
    """All arrays of a covariance's file."""
    if state.before_cut is None:
        return _arrays(state, layer)
    whole = _arrays(state.before_cut, layer)
    return whole | {"total": pack_triangle(state.moments[layer].total.numpy()), "whole": whole["total"]}


def _arrays(state: CollectionState, layer: int) -> dict[str, np.ndarray]:
    """What one layer needs to go on from a state after whole blocks."""
    moment = state.moments[layer]
    convergence = moment.convergence
    arrays = {
        "total": pack_triangle(moment.total.numpy()),
        "place": np.array([state.blocks, state.documents, moment.tokens, convergence.checked_tokens]),
        "probes": convergence.probes.numpy(),
        "curve": np.array([[p.tokens, p.mean, p.largest] for p in convergence.curve]).reshape(-1, 3),
    }
    if convergence.directions is not None:
        arrays["directions"] = convergence.directions.numpy()
    return arrays


def _state(layers: Mapping[int, Arrays], width: int) -> CollectionState:
    """The state that such arrays are of."""
    moments = {}
    for layer, arrays in layers.items():
        blocks, documents, tokens, checked_tokens = arrays["place"].tolist()
        directions = _tensor(arrays["directions"]) if "directions" in arrays else None
        curve = [ConvergencePoint(int(at), mean, largest) for at, mean, largest in arrays["curve"].tolist()]
        total = torch.from_numpy(unpack_triangle(arrays.get("whole", arrays["total"]), width))
        convergence = Convergence(_tensor(arrays["probes"]), directions, checked_tokens, curve)
        moments[layer] = SecondMoment(total, tokens, convergence)
    return CollectionState(moments, blocks, documents, is_finished=False)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A copy in memory that torch has aligned."""
    return torch.from_numpy(array).clone()


def _save_checkpoint(running: RunningJob, corpus: Corpus, state: CollectionState) -> None:
    old = running.job.checkpoint.get("moments")
    arrays = {
        f"{layer}.{name}": array for layer in state.moments for name, array in _arrays(state, layer).items()
    }
    artifact = running.catalog.artifacts.put_tensors(arrays)
    with running.catalog.write() as session:
        session.merge(artifact)
        counted = {"tokens": state.tokens, "texts_revision": corpus.revision}
        running.checkpoint(session, running.job.checkpoint | {"moments": artifact.sha256} | counted)
    if old and old != artifact.sha256:
        with running.catalog.read() as session:
            # Another job that collects the same may have come to the same sums, and go on from them.
            shared = old in find_references(session)
        if not shared:
            running.catalog.artifacts.remove(old)


def _restored(
    running: RunningJob, corpus: Corpus, layers: Sequence[int], width: int
) -> CollectionState | None:
    kept = running.job.checkpoint.get("moments")
    if kept is None:
        return None
    if running.job.checkpoint["texts_revision"] != corpus.revision:
        raise InputError(f"{corpus.source} has changed since this job began: start another one")
    found: dict[int, dict[str, np.ndarray]] = {}
    for name, array in running.catalog.artifacts.read_arrays(kept).items():
        layer, _, what = name.partition(".")
        found.setdefault(int(layer), {})[what] = array
    # Of an edit that was stopped another job may have collected some layers since, or had some removed.
    if not found.keys() >= set(layers):
        return None
    return _state({layer: found[layer] for layer in layers}, width)


def _earlier(running: RunningJob, reading: Reading, corpus: Corpus, ids: Sequence[int]) -> list[Covariance]:
    """The covariances to go on from, if they are of these texts, this tokenizer and this base."""
    with running.catalog.read() as session:
        found = [session.get(Covariance, id) for id in ids]
    rows = [row for row in found if row is not None]
    if len(rows) < len(ids):
        raise NotFound("a covariance that was to be topped up has been removed")
    for row in rows:
        for what, then, now in (
            ("the texts", row.texts_revision, corpus.revision),
            ("the tokenizer", row.tokenizer, hash_tokenizer(reading.tokenizer)),
            ("the base", row.fingerprint, reading.model.fingerprint),
        ):
            if then != now:
                raise InputError(
                    f"covariance {row.id} cannot be topped up: {what} of then ({str(then)[:12]}) changed since "
                    f"(now {now[:12]}); collect a new one with `retcon covariance run`"
                )
    return rows


def _state_of(running: RunningJob, rows: Sequence[Covariance]) -> CollectionState | None:
    if not rows:
        return None
    layers = {row.layer: running.catalog.artifacts.read_arrays(row.artifact) for row in rows}
    return _state(layers, rows[0].width)


def newest(running: RunningJob, model_id: int, layer: int) -> Covariance | None:
    """The covariance of a layer that has seen the most tokens, the newest of equals; only of the base as it is."""
    with running.catalog.read() as session:
        query = (
            select(Covariance)
            .join(Model)
            .where(Covariance.model_id == model_id, Covariance.layer == layer)
            .where(Covariance.fingerprint == Model.fingerprint, Covariance.dtype == Model.dtype)
        )
        return session.exec(query.order_by(col(Covariance.tokens).desc(), col(Covariance.id).desc())).first()


def moment_of(running: RunningJob, row: Covariance) -> torch.Tensor:
    """C of a cataloged covariance, float64 `[key_width, key_width]`; the file is verified by its hash."""
    return torch.from_numpy(load_sum(running.catalog, row)) / row.tokens
