"""Write facts: prepare the settings and second moments, run the method, and record a new revision."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from safetensors.torch import save_file
from sqlmodel import Session

from ....store.catalog.tables import Covariance, Revision
from ....store.errors import NotFound
from ....store.history import history
from ...edits import METHODS
from ...edits.batching import split_batches, write_in_batches
from ...edits.method import NO_CHECKPOINT, Checkpoint, EditResult, EditTask, Method, PastEdit, Request
from ...edits.value_search import check_request
from ...errors import InputError
from ...evaluation.scoring import Score, score_targets
from ...model.delta import Delta, concatenate, read_delta, to_tensors
from ...model.generation import sample_contexts
from ..settings import check_method, resolve_hparams
from ..specs import CovarianceSpec, EditSpec
from ..worker.running import RunningJob
from .covariance import collect_missing, factored_moment, find_newest, load_moment
from .edit_checkpoint import BatchCheckpoint, FinishedBatches, invalidate_if_changed
from .loaded import Loaded, load

_SCORES_PROTOCOL = (
    "teacher-forced on the request's prompt: share of requests with every target token first choice; probability is "
    "exp(-mean negative log-likelihood per token), mean over requests"
)


def run(running: RunningJob, spec: EditSpec) -> dict[str, Any]:
    """Write the requests of the job. Returns the new revision's id."""
    check_method(spec.method)
    loaded = load(running, spec.model, spec.revision)

    def commit(session: Session, revision: Revision) -> None:
        running.commit_result(session, {"revision": revision.id})

    return {"revision": write(running, spec, loaded, commit).id}


@dataclass(frozen=True)
class PreparedEdit:
    """All that a method needs to write the requests of a spec on a loaded revision."""

    method: Method[Any]
    task: EditTask[Any]
    covariances: dict[int, Covariance]
    batches: list[Sequence[Request]]

    @property
    def targets(self) -> list[tuple[str, str]]:
        """(prompt, new target) of each request."""
        return [(request.text, request.target_new) for request in self.task.requests]


def write(
    running: RunningJob, spec: EditSpec, loaded: Loaded, on_saved: Callable[[Session, Revision], None]
) -> Revision:
    """Write the requests on the loaded revision. The model ends at the new one.

    `on_saved` is called in the transaction that saves the revision.

    Raises:
        InputError: there is no request, or the method cannot write one.
    """
    edit = prepare(running, spec, loaded, BatchCheckpoint(running))
    parent, hparams = loaded.revision, edit.task.hparams
    invalidate_if_changed(
        running, [parent.id, spec.method, spec.requests, hparams.as_dict(), spec.seed, spec.batch]
    )
    before = score_targets(loaded.decoder, loaded.tokenizer, edit.targets)
    results = _run_method(running, edit)
    running.report_activity("writing the revision")
    delta = concatenate(result.delta for result in results)
    for name, factors in delta.items():
        if not factors.is_finite:  # a solve has overflowed
            raise InputError(
                f"{spec.method} gives numbers that are not finite for {name}. Its settings do not fit these facts."
            )
    artifact = running.catalog.artifacts.put_writer(lambda path: save_file(to_tensors(delta), path))
    revision = Revision(
        model_id=loaded.model.id or 0,
        parent=parent.id,
        kind="edit",
        method=spec.method,
        hparams=hparams.as_dict(),
        seed=spec.seed,
        contexts=list(edit.task.contexts),
        requests=spec.requests,
        covariances=[row.id or 0 for row in edit.covariances.values()],
        delta=artifact.sha256,
        message=spec.message or _message(edit.task.requests),
        fingerprint="",
    )
    loaded.place(revision, concatenate([loaded.delta, delta]))
    revision.fingerprint = loaded.fingerprint()
    revision.statistics = _statistics(loaded, edit, delta, results, before)
    loaded.verify_fingerprint()
    with running.catalog.write(durable=True) as session:
        session.merge(artifact)
        history.commit_revision(session, history.find_model(session, spec.model), revision, "edit")
        on_saved(session, revision)
    running.training_checkpoint.unlink(missing_ok=True)
    return revision


def prepare(
    running: RunningJob, spec: EditSpec, loaded: Loaded, checkpoint: Checkpoint = NO_CHECKPOINT
) -> PreparedEdit:
    """Resolve the settings of an edit, check its requests, and find or collect its covariances.

    Raises:
        InputError: there is no request, or the method cannot write one.
    """
    method = METHODS[spec.method]
    requests = list(map(Request.from_dict, spec.requests))
    if not requests:
        raise InputError("No request has a new target, so there is no fact to write.")
    hparams = resolve_hparams(spec, loaded.model, running.catalog.home)
    layers = method.layers(hparams)
    for layer in layers or hparams.layers:
        for request in requests:
            check_request(loaded.decoder, loaded.tokenizer, request, layer, hparams)
    covariances = find_covariances(running, spec, loaded, layers)
    running.report_activity("generating context texts")
    task = EditTask(
        loaded.decoder,
        loaded.tokenizer,
        requests,
        {layer: factored_moment(running, row) for layer, row in covariances.items()},
        hparams,
        sample_contexts(loaded.decoder.model, loaded.tokenizer, hparams.contexts, spec.seed),
        running.report,
        load_past_edits(running, loaded.revision),
        checkpoint,
        spec.seed,
    )
    return PreparedEdit(method, task, covariances, split_batches(hparams, requests, spec.batch))


def _run_method(running: RunningJob, edit: PreparedEdit) -> list[EditResult]:
    """Write the batches that an earlier attempt has not finished. Returns the results of all batches."""
    finished = FinishedBatches(running)
    results = finished.load()
    for result in write_in_batches(edit.method, edit.task, edit.batches, [one.delta for one in results]):
        results.append(result)
        if len(results) < len(edit.batches):
            finished.save(result)
    return results


def _statistics(
    loaded: Loaded, edit: PreparedEdit, delta: Delta, results: Sequence[EditResult], before: Sequence[Score]
) -> dict[str, Any]:
    """The sizes of the delta and the scores of the requests, with the new revision loaded."""
    sizes, all_sizes = loaded.weights.sizes(delta), loaded.weights.sizes(loaded.delta)
    after = score_targets(loaded.decoder, loaded.tokenizer, edit.targets)
    figures = [figures for result in results for figures in result.figures]
    return {
        "delta": {name: asdict(size) for name, size in sizes.items()},
        "with_earlier_edits": {name: asdict(size) for name, size in all_sizes.items()},
        "requests": [
            one | {"before": _score(old), "after": _score(new)}
            for one, old, new in zip(figures, before, after, strict=True)
        ],
        "batches": list(map(len, edit.batches)),
        "scores": {
            "efficacy": sum(score.first_choice for score in after) / len(after),
            "probability": sum(math.exp(-score.nll) for score in after) / len(after),
            "protocol": _SCORES_PROTOCOL,
        },
    }


def _score(score: Score) -> dict[str, Any]:
    return {"probability": math.exp(-score.nll), "first_choice": score.first_choice}


def _message(requests: Sequence[Request]) -> str:
    first = f"{requests[0].subject} → {requests[0].target_new.strip()}"
    return first if len(requests) == 1 else f"{first} (and {len(requests) - 1} more)"


def load_past_edits(running: RunningJob, revision: Revision) -> list[PastEdit]:
    """The edits of a revision, oldest first. A delta's file is read, and its hash checked, on first use."""
    with running.catalog.read() as session:
        edits = history.live_edits(history.load_path(session, revision.id))

    def read(digest: str | None) -> Delta:
        return read_delta(running.catalog.artifacts.path(digest)) if digest else {}

    return [
        PastEdit(one.method or "", list(map(Request.from_dict, one.requests)), partial(read, one.delta))
        for one in edits
    ]


def find_covariances(
    running: RunningJob, spec: EditSpec, loaded: Loaded, layers: Sequence[int]
) -> dict[int, Covariance]:
    """The covariance of each layer. Missing ones are collected first, in one pass.

    A resumed job uses the covariances of its first attempt. The hash of each file is checked, so that a corrupt file
    fails before the search and not after it.
    """
    with running.catalog.read() as session:
        used = [session.get(Covariance, id) for id in running.job.checkpoint.get("covariances", [])]
    found = {row.layer: row for row in used if row is not None and row.layer in layers}
    for layer in layers:
        if layer not in found:
            row = _find_named(running, spec, loaded, layer) or find_newest(
                running, loaded.model.id or 0, layer
            )
            if row is not None:
                found[layer] = row
    missing = [layer for layer in layers if layer not in found]
    if missing:
        detail = f"layer {', '.join(map(str, missing))}, {spec.texts} texts"
        running.report_activity("collecting missing covariances", detail)
        # With the default number of tokens.
        collection = CovarianceSpec(spec.model, missing, spec.texts, seed=spec.seed)
        ids = collect_missing(running, loaded, collection)
        with running.catalog.read() as session:
            rows = [session.get_one(Covariance, id) for id in ids]
        found |= {row.layer: row for row in rows}
    for row in found.values():
        load_moment(running, row)
    with running.catalog.write() as session:
        ids = [row.id or 0 for row in found.values()]
        running.checkpoint(session, running.job.checkpoint | {"covariances": ids})
    return found


def _find_named(running: RunningJob, spec: EditSpec, loaded: Loaded, layer: int) -> Covariance | None:
    """The covariance that the spec names.

    Raises:
        NotFound: it does not exist.
        InputError: it belongs to another model or layer.
    """
    if spec.covariance is None:
        return None
    with running.catalog.read() as session:
        row = session.get(Covariance, spec.covariance)
    if row is None:
        raise NotFound(f"There is no covariance {spec.covariance}. List them with `retcon covariance list`.")
    if row.model_id != loaded.model.id:
        raise InputError(f"Covariance {row.id} belongs to another model than {spec.model}.")
    if row.layer != layer:
        raise InputError(f"Covariance {row.id} is of layer {row.layer}, but layer {layer} is edited.")
    return row
