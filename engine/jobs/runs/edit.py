"""Write facts: settings, second moments, the method, and one new revision with all that it took to make it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sqlmodel import Session

from ....store.catalog.tables import Covariance, Revision
from ....store.errors import NotFound
from ....store.history import history
from ...covariance.moments import FactoredMoment
from ...edits import METHODS
from ...edits.batching import split_batches, write_in_batches
from ...edits.method import EditTask, PastEdit, Request
from ...edits.value_search import check_request
from ...errors import InputError
from ...evaluation.scoring import Score, score_targets
from ...model.delta import Delta, concatenate, read_delta, to_tensors
from ...model.generation import sample_contexts
from ..settings import check_method, resolve_hparams
from ..specs import EditSpec
from ..worker.running import RunningJob
from .covariance import Reading, collect_into_catalog, moment_of, newest
from .edit_checkpoint import KeptParts, KeptWork, keep_for
from .loaded import Loaded, load

# Of a covariance that an edit collects on its way.
FIRST_TOKENS = 100_000
MAX_LENGTH = 512


def run(running: RunningJob, spec: EditSpec) -> dict[str, Any]:
    """Returns the new revision's id."""
    check_method(spec.method)
    loaded = load(running, spec.model, spec.revision)

    def note(session: Session, revision: Revision) -> None:
        running.commit_result(session, {"revision": revision.id})

    return {"revision": write(running, spec, loaded, note).id}


def write(
    running: RunningJob, spec: EditSpec, loaded: Loaded, note: Callable[[Session, Revision], None]
) -> Revision:
    """Write the requests on the loaded revision, and leave the new one loaded; `note` is called in the transaction that
    saves it.

    Raises:
        InputError: there is no request, or one that the method cannot write.
    """
    method = METHODS[spec.method]
    requests = list(map(Request.from_dict, spec.requests))
    if not requests:
        raise InputError("there is no fact to write: no request has a new target")
    hparams = resolve_hparams(spec, loaded.model, running.catalog.home)
    for layer in method.layers(hparams) or hparams.layers:
        for request in requests:
            check_request(loaded.decoder, loaded.tokenizer, request, layer, hparams)
    moments = moments_at(running, spec, loaded, method.layers(hparams))
    running.report_activity("generating context texts")
    contexts = sample_contexts(loaded.decoder.model, loaded.tokenizer, hparams.contexts, spec.seed)
    parent = loaded.revision
    keep_for(running, [parent.id, spec.method, spec.requests, hparams.as_dict(), spec.seed, spec.batch])
    asked = [(request.text, request.target_new) for request in requests]
    before = score_targets(loaded.decoder, loaded.tokenizer, asked)
    parts = split_batches(hparams, requests, spec.batch)
    kept = KeptParts(running)
    written = kept.written()
    task = EditTask(
        loaded.decoder,
        loaded.tokenizer,
        requests,
        {layer: FactoredMoment(partial(moment_of, running, row)) for layer, row in moments.items()},
        hparams,
        contexts,
        running.report,
        past_edits(running, parent),
        KeptWork(running),
        spec.seed,
    )
    for part in write_in_batches(method, task, parts, [one.delta for one in written]):
        written.append(part)
        if len(written) < len(parts):
            kept.keep(part)
    delta = concatenate(one.delta for one in written)
    figures = [figures for one in written for figures in one.figures]
    running.report_activity("writing the revision")
    _check_finite(delta, spec.method)
    artifact = running.catalog.artifacts.put_writer(lambda path: _save(delta, path))
    revision = Revision(
        model_id=loaded.model.id or 0,
        parent=parent.id,
        kind="edit",
        method=spec.method,
        hparams=hparams.as_dict(),
        seed=spec.seed,
        contexts=contexts,
        requests=spec.requests,
        covariances=[row.id or 0 for row in moments.values()],
        delta=artifact.sha256,
        message=spec.message or _message(requests),
        fingerprint="",
    )
    loaded.place(revision, concatenate([loaded.delta, delta]))
    sizes = loaded.weights.sizes(loaded.delta)
    own = loaded.weights.sizes(delta)
    after = score_targets(loaded.decoder, loaded.tokenizer, asked)
    revision.statistics = {
        "delta": {name: asdict(size) for name, size in own.items()},
        "with_earlier_edits": {name: asdict(size) for name, size in sizes.items()},
        "requests": [
            found | {"before": _score(old), "after": _score(new)}
            for found, old, new in zip(figures, before, after, strict=True)
        ],
        "batches": list(map(len, parts)),
        "scores": {
            "efficacy": sum(score.first_choice for score in after) / len(after),
            "probability": sum(math.exp(-score.nll) for score in after) / len(after),
            "protocol": "teacher-forced on the request's prompt: share of requests with every target token first "
            "choice; probability is exp(-mean negative log-likelihood per token), mean over requests",
        },
    }
    revision.fingerprint = loaded.fingerprint()
    loaded.verify_fingerprint()
    with running.catalog.write(durable=True) as session:
        session.merge(artifact)
        model = history.find_model(session, spec.model)
        history.commit_revision(session, model, revision, "edit")
        note(session, revision)
    running.training_checkpoint.unlink(missing_ok=True)
    return revision


def _check_finite(delta: Delta, method: str) -> None:
    """Raise InputError where a solve has overflowed: such weights would say nothing any more."""
    for name, factors in delta.items():
        if not factors.is_finite:
            raise InputError(
                f"{method} comes to numbers that are not finite for {name}: its settings do not fit these facts"
            )


def _save(delta: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(to_tensors(delta), path)


def past_edits(running: RunningJob, revision: Revision) -> list[PastEdit]:
    """The edits that a revision holds, oldest first; a delta's file is read, and verified, when it is asked for."""
    with running.catalog.read() as session:
        edits = history.live_edits(history.load_path(session, revision.id))
    return [
        PastEdit(
            edit.method or "", list(map(Request.from_dict, edit.requests)), partial(_delta_of, running, edit)
        )
        for edit in edits
    ]


def _delta_of(running: RunningJob, edit: Revision) -> Delta:
    return read_delta(running.catalog.artifacts.path(edit.delta)) if edit.delta else {}


def _score(score: Score) -> dict[str, Any]:
    return {"probability": math.exp(-score.nll), "first_choice": score.first_choice}


def moments_at(
    running: RunningJob, spec: EditSpec, loaded: Loaded, layers: Sequence[int]
) -> dict[int, Covariance]:
    """The cataloged covariance of each of the layers; those missing are collected first, in one pass.

    A resumed job takes those that it began with, whatever was collected since. Each file is verified now rather than
    after the search.
    """
    found = {layer: row for layer, row in _began_with(running).items() if layer in layers}
    for layer in layers:
        if layer in found:
            continue
        row = _chosen(running, spec, loaded, layer) or newest(running, loaded.model.id or 0, layer)
        if row is not None:
            found[layer] = row
    missing = [layer for layer in layers if layer not in found]
    if missing:
        layers_text = ", ".join(map(str, missing))
        running.report_activity(
            f"no covariance yet for layer {layers_text}: collecting one from {spec.texts} texts"
        )
        # The covariance describes the base, whatever revision is edited.
        with loaded.holding({}):
            ids = collect_into_catalog(
                running,
                Reading.here(running, loaded),
                missing,
                spec.texts,
                max_tokens=FIRST_TOKENS,
                max_length=MAX_LENGTH,
                seed=spec.seed,
            )
        with running.catalog.read() as session:
            rows = [session.get_one(Covariance, id) for id in ids]
        found |= {row.layer: row for row in rows}
    for row in found.values():
        moment_of(running, row)
    with running.catalog.write() as session:
        ids = [row.id or 0 for row in found.values()]
        running.checkpoint(session, running.job.checkpoint | {"covariances": ids})
    return found


def _began_with(running: RunningJob) -> dict[int, Covariance]:
    ids = running.job.checkpoint.get("covariances", [])
    with running.catalog.read() as session:
        rows = [session.get(Covariance, id) for id in ids]
    return {row.layer: row for row in rows if row is not None}


def _chosen(running: RunningJob, spec: EditSpec, loaded: Loaded, layer: int) -> Covariance | None:
    if spec.covariance is None:
        return None
    with running.catalog.read() as session:
        row = session.get(Covariance, spec.covariance)
    if row is None:
        raise NotFound(
            f"there is no covariance {spec.covariance}; `retcon covariance list` shows those there are"
        )
    if row.model_id != loaded.model.id or row.layer != layer:
        raise InputError(
            f"covariance {row.id} is of layer {row.layer} of another model than {spec.model}"
            if row.model_id != loaded.model.id
            else f"covariance {row.id} is of layer {row.layer}, and layer {layer} is edited"
        )
    return row


def _message(requests: list[Request]) -> str:
    first = f"{requests[0].subject} → {requests[0].target_new.strip()}"
    return first if len(requests) == 1 else f"{first} (and {len(requests) - 1} more)"
