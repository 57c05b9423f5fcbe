"""Collect second moments; a block of documents is what a resumed job goes on from."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from sqlmodel import col, select

from ....store.tables import Covariance
from ...corpus import Corpus, open_corpus
from ...covariance import Collected, SecondMoment, collect
from ..running import Running
from ..specs import CovarianceSpec
from .loaded import Loaded, load

# Between two checkpoints of the sums, which are large: 8 bytes x key_width^2 a layer.
_CHECKPOINT_SECONDS = 60.0


def run(running: Running, spec: CovarianceSpec) -> dict[str, Any]:
    """Returns the ids of the new covariances, one per layer; `covariance` is the first."""
    loaded = load(running, spec.model, "base")
    ids = collect_into_catalog(
        running,
        loaded,
        spec.layers,
        spec.texts,
        max_tokens=spec.max_tokens,
        max_length=spec.max_length,
        seed=spec.seed,
        last=True,
    )
    return _made(ids)


def _made(ids: list[int]) -> dict[str, Any]:
    return {"covariance": ids[0], "covariances": ids}


def collect_into_catalog(
    running: Running,
    loaded: Loaded,
    layers: Sequence[int],
    texts: str,
    *,
    max_tokens: int,
    max_length: int,
    seed: int,
    last: bool = False,
) -> list[int]:
    """Collect the moments of `layers` and save one row each; goes on from the job's checkpoint.

    `last` says that they are all that the job makes.
    """
    corpus = open_corpus(texts)
    layers = sorted(set(layers))
    width = loaded.decoder.anatomy.key_width
    running.check_room(2 * 8 * width * width * len(layers))
    saved = time.monotonic()
    state = None
    for state in collect(
        loaded.decoder,
        loaded.tokenizer,
        corpus,
        layers,
        max_tokens=max_tokens,
        max_length=max_length,
        seed=seed,
        start=_restored(running, layers),
        report=running.report,
    ):
        if not state.finished and time.monotonic() - saved > _CHECKPOINT_SECONDS:
            _save_checkpoint(running, state)
            saved = time.monotonic()
    assert state is not None  # the last block is always yielded
    running.say("saving")
    return _save(running, loaded, corpus, state, max_length, seed, last)


def _save_checkpoint(running: Running, state: Collected) -> None:
    old = running.job.checkpoint.get("moments")
    arrays = {str(layer): moment.total.numpy() for layer, moment in state.moments.items()}
    artifact = running.catalog.artifacts.put_tensors(arrays)
    tokens = next(iter(state.moments.values())).tokens
    with running.catalog.write() as session:
        session.merge(artifact)
        counts = {"blocks": state.blocks, "documents": state.documents, "tokens": tokens}
        running.checkpoint(session, {"moments": artifact.sha256, **counts})
    if old and old != artifact.sha256:
        running.catalog.artifacts.remove(old)


def _restored(running: Running, layers: Sequence[int]) -> Collected | None:
    kept = running.job.checkpoint
    if "moments" not in kept:
        return None
    arrays = running.catalog.artifacts.read_arrays(kept["moments"])
    moments = {layer: SecondMoment(torch.from_numpy(arrays[str(layer)]), kept["tokens"]) for layer in layers}
    return Collected(moments, kept["blocks"], kept["documents"], finished=False)


def _save(
    running: Running,
    loaded: Loaded,
    corpus: Corpus,
    state: Collected,
    max_length: int,
    seed: int,
    last: bool,
) -> list[int]:
    artifacts = {
        layer: running.catalog.artifacts.put_tensors({"total": moment.total.numpy()})
        for layer, moment in state.moments.items()
    }
    rows = []
    with running.catalog.write(durable=True) as session:
        for layer, moment in state.moments.items():
            session.merge(artifacts[layer])
            rows.append(
                Covariance(
                    model_id=loaded.model.id or 0,
                    layer=layer,
                    module=loaded.decoder.anatomy.name("matrix", layer),
                    width=loaded.decoder.anatomy.key_width,
                    texts=corpus.source,
                    texts_revision=corpus.revision,
                    seed=seed,
                    tokens=moment.tokens,
                    documents=state.documents,
                    max_length=max_length,
                    dtype=loaded.model.dtype,
                    finished=True,
                    artifact=artifacts[layer].sha256,
                )
            )
        session.add_all(rows)
        session.flush()
        ids = [row.id or 0 for row in rows]
        # In the same transaction: for an edit the sums so far are of no more use, its catalogued rows are.
        running.commit(session, _made(ids)) if last else running.checkpoint(session, {})
        return ids


def newest(running: Running, model_id: int, layer: int) -> Covariance | None:
    """The covariance of a layer that has seen the most tokens, the newest of equals."""
    with running.catalog.read() as session:
        query = select(Covariance).where(
            Covariance.model_id == model_id, Covariance.layer == layer, col(Covariance.finished)
        )
        return session.exec(query.order_by(col(Covariance.tokens).desc(), col(Covariance.id).desc())).first()


def moment_of(running: Running, row: Covariance) -> torch.Tensor:
    """C of a catalogued covariance, float64 `[key_width, key_width]`; the file is verified by its hash."""
    return torch.from_numpy(running.catalog.artifacts.read_arrays(row.artifact)["total"]) / row.tokens
