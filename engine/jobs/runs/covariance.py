"""Collect second moments, or continue those of the catalog. A resumed job continues after its last saved block.

Beside `total`, the file of a covariance holds all that a longer collection continues from: `whole`, the sums without
the cut block (absent if equal to `total`), `place`, and the probes and directions of `Convergence`. The sums are packed
upper triangles. All numbers are float64, `place` is int64.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sqlmodel import Session, col, select
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
from ...covariance.moments import FactoredMoment
from ...errors import InputError
from ...model.anatomy import Anatomy
from ...model.tokens import hash_tokenizer
from ...progress import Report
from ..devices import is_on_ray
from ..specs import CovarianceSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load

# The sums are large, 4 bytes * key_width^2 per layer. Saving them takes at most one part in so many of the time.
_CHECKPOINT_PART = 20
# The fields of a checkpoint that belong to a collection.
_CHECKPOINT_FIELDS = ("moments", "tokens", "texts_revision")

Arrays = Mapping[str, np.ndarray]
# Called with the ids of the new covariances, in the transaction that saves them.
OnSaved = Callable[[Session, list[int]], None]


@dataclass(frozen=True)
class KeyReader:
    """A model whose keys are read, wherever its weights are. `report` takes the progress."""

    model: Model
    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    read: BlockReader
    report: Report

    @classmethod
    def local(cls, running: RunningJob, loaded: Loaded) -> Self:
        """A reader of a model in this process."""
        decoder = loaded.decoder
        read = partial(read_in_process, decoder)
        return cls(loaded.model, decoder.anatomy, loaded.tokenizer, read, running.report)


def run(running: RunningJob, spec: CovarianceSpec) -> dict[str, Any]:
    """Collect a covariance per layer. Returns their ids; `covariance` is the first."""

    def commit(session: Session, ids: list[int]) -> None:
        running.commit_result(session, _result(ids))

    with _open_reader(running, spec) as reader:
        return _result(collect_into_catalog(running, reader, spec, commit))


def _result(ids: list[int]) -> dict[str, Any]:
    return {"covariance": ids[0], "covariances": ids}


@contextmanager
def _open_reader(running: RunningJob, spec: CovarianceSpec) -> Iterator[KeyReader]:
    if not is_on_ray(running.job.device):
        yield KeyReader.local(running, load(running, spec.model, "base"))
        return
    from .on_ray.covariance import read_on_ray
    from .on_ray.model import open_remote_model

    with open_remote_model(running, spec.model, "base", spec.threads, "tokens") as remote:
        read = partial(read_on_ray, remote)
        yield KeyReader(remote.model, remote.anatomy, remote.tokenizer, read, remote.pool.report)


def collect_missing(running: RunningJob, loaded: Loaded, spec: CovarianceSpec) -> list[int]:
    """Collect covariances that an edit or a sweep needs, on the base of a loaded model. Returns their ids."""

    def forget_sums(session: Session, _ids: list[int]) -> None:
        rest = {
            name: value for name, value in running.job.checkpoint.items() if name not in _CHECKPOINT_FIELDS
        }
        running.checkpoint(session, rest)

    with loaded.holding({}):
        return collect_into_catalog(running, KeyReader.local(running, loaded), spec, forget_sums)


def collect_into_catalog(
    running: RunningJob, reader: KeyReader, spec: CovarianceSpec, on_saved: OnSaved
) -> list[int]:
    """Collect the moments of the spec's layers and save one row each. Returns their ids.

    Continues from the job's checkpoint, else from the covariances in `spec.extends`.

    Raises:
        InputError: a covariance to extend has other texts, another tokenizer or base; or no text is left.
    """
    corpus = open_corpus(spec.texts)
    layers = sorted(set(spec.layers))
    width = reader.anatomy.key_width
    running.check_space(2 * 8 * width * width * len(layers))
    earlier = _load_earlier(running, reader, corpus, spec.extends)
    start = _restore(running, corpus, layers, width)
    if start is None and earlier:
        arrays = {row.layer: running.catalog.artifacts.read_arrays(row.artifact) for row in earlier}
        start = _build_state(arrays, width)
    state = _collect(running, reader, corpus, layers, spec, start)
    if earlier and state.tokens <= earlier[0].tokens:
        raise InputError(
            f"{corpus.source} has no more text: all its {state.documents:,} documents have been read."
        )
    running.report_activity("saving")
    artifacts = [running.catalog.artifacts.put_tensors(_file(state, layer)) for layer in state.moments]
    rows = _build_rows(reader, corpus, spec, state, earlier)
    with running.catalog.write(durable=True) as session:
        for row, artifact in zip(rows, artifacts, strict=True):
            session.merge(artifact)
            row.artifact = artifact.sha256
        session.add_all(rows)
        session.flush()
        ids = [row.id or 0 for row in rows]
        on_saved(session, ids)
    return ids


def _collect(
    running: RunningJob,
    reader: KeyReader,
    corpus: Corpus,
    layers: Sequence[int],
    spec: CovarianceSpec,
    start: CollectionState | None,
) -> CollectionState:
    """Read the texts and save checkpoints. Returns the last state."""
    settings = CollectionSettings(spec.max_tokens, spec.max_length, spec.seed, spec.tolerance)
    saved, took = time.monotonic(), 0.0
    state = None
    for state in collect_with(
        reader.read, reader.anatomy, reader.tokenizer, corpus, layers, settings, start, reader.report
    ):
        begin = time.monotonic()
        if not state.is_finished and begin - saved > _CHECKPOINT_PART * took:
            _save_checkpoint(running, corpus, state)
            saved = time.monotonic()
            took = saved - begin
    assert state is not None  # the last block is always yielded
    return state


def _build_rows(
    reader: KeyReader,
    corpus: Corpus,
    spec: CovarianceSpec,
    state: CollectionState,
    earlier: Sequence[Covariance],
) -> list[Covariance]:
    """The rows of the moments, in the order of their layers, without artifacts."""
    extended = {row.layer: row.id for row in earlier}
    return [
        Covariance(
            model_id=reader.model.id or 0,
            layer=layer,
            module=reader.anatomy.module_name("matrix", layer),
            width=reader.anatomy.key_width,
            fingerprint=reader.model.fingerprint,
            tokenizer=hash_tokenizer(reader.tokenizer),
            texts=corpus.source,
            texts_revision=corpus.revision,
            seed=spec.seed,
            tokens=moment.tokens,
            documents=state.documents,
            max_length=spec.max_length,
            dtype=reader.model.dtype,
            curve=[asdict(point) for point in moment.convergence.curve],
            origin={"extends": extended[layer]} if layer in extended else {},
            artifact="",
        )
        for layer, moment in state.moments.items()
    ]


def _file(state: CollectionState, layer: int) -> dict[str, np.ndarray]:
    """The arrays of a covariance's file."""
    if state.before_cut is None:
        return _arrays(state, layer)
    whole = _arrays(state.before_cut, layer)
    return whole | {"total": pack_triangle(state.moments[layer].total.numpy()), "whole": whole["total"]}


def _arrays(state: CollectionState, layer: int) -> dict[str, np.ndarray]:
    """One layer's arrays of a state without a cut block."""
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


def _build_state(layers: Mapping[int, Arrays], width: int) -> CollectionState:
    """The state of such arrays by layer."""
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
    """Save the sums and remove those of the previous checkpoint."""
    old = running.job.checkpoint.get("moments")
    arrays = {
        f"{layer}.{name}": array for layer in state.moments for name, array in _arrays(state, layer).items()
    }
    artifact = running.catalog.artifacts.put_tensors(arrays)
    fields = {"moments": artifact.sha256, "tokens": state.tokens, "texts_revision": corpus.revision}
    with running.catalog.write() as session:
        session.merge(artifact)
        running.checkpoint(session, running.job.checkpoint | fields)
    if old and old != artifact.sha256:
        with running.catalog.read() as session:
            # Another job with the same texts and layers may have the same sums in its checkpoint.
            is_shared = old in find_references(session)
        if not is_shared:
            running.catalog.artifacts.remove(old)


def _restore(
    running: RunningJob, corpus: Corpus, layers: Sequence[int], width: int
) -> CollectionState | None:
    """The state of the job's checkpoint.

    Raises:
        InputError: the texts have changed since.
    """
    saved = running.job.checkpoint.get("moments")
    if saved is None:
        return None
    if running.job.checkpoint["texts_revision"] != corpus.revision:
        raise InputError(f"{corpus.source} has changed since this job started. Start a new job.")
    arrays: dict[int, dict[str, np.ndarray]] = {}
    for key, array in running.catalog.artifacts.read_arrays(saved).items():
        layer, _, name = key.partition(".")
        arrays.setdefault(int(layer), {})[name] = array
    # For a resumed edit, other jobs may have collected or removed covariances, so that other layers are missing.
    if not arrays.keys() >= set(layers):
        return None
    return _build_state({layer: arrays[layer] for layer in layers}, width)


def _load_earlier(
    running: RunningJob, reader: KeyReader, corpus: Corpus, ids: Sequence[int]
) -> list[Covariance]:
    """The covariances to extend.

    Raises:
        NotFound: one was removed.
        InputError: one has other texts, another tokenizer or base.
    """
    with running.catalog.read() as session:
        rows = [row for id in ids if (row := session.get(Covariance, id)) is not None]
    if len(rows) < len(ids):
        raise NotFound("A covariance to extend has been removed.")
    for row in rows:
        for what, before, now in (
            ("texts", row.texts_revision, corpus.revision),
            ("tokenizer", row.tokenizer, hash_tokenizer(reader.tokenizer)),
            ("base", row.fingerprint, reader.model.fingerprint),
        ):
            if before != now:
                raise InputError(
                    f"Covariance {row.id} cannot be extended: its {what} changed from {str(before)[:12]} to "
                    f"{now[:12]}. Collect a new one with `retcon covariance run`."
                )
    return rows


def find_newest(running: RunningJob, model_id: int, layer: int) -> Covariance | None:
    """The covariance of a layer with the most tokens, the newest if several have as many. Only of the current base."""
    with running.catalog.read() as session:
        query = (
            select(Covariance)
            .join(Model)
            .where(Covariance.model_id == model_id, Covariance.layer == layer)
            .where(Covariance.fingerprint == Model.fingerprint, Covariance.dtype == Model.dtype)
        )
        return session.exec(query.order_by(col(Covariance.tokens).desc(), col(Covariance.id).desc())).first()


def load_moment(running: RunningJob, row: Covariance) -> torch.Tensor:
    """C of a cataloged covariance, float64 `[key_width, key_width]`. The hash of its file is checked."""
    return torch.from_numpy(load_sum(running.catalog, row)) / row.tokens


def factored_moment(running: RunningJob, row: Covariance) -> FactoredMoment:
    """C of a cataloged covariance, loaded and factored on first use."""
    return FactoredMoment(partial(load_moment, running, row))
