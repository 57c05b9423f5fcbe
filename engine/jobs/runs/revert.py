"""Take one edit out of the middle: a new revision whose weights never had it."""

from typing import Any

from ....store.catalog.tables import Revision
from ....store.errors import InputError
from ....store.history import history
from ...model.delta import concatenate, read_delta
from ..specs import RevertSpec
from ..worker.running import Running
from .loaded import check_everything, check_tensors, load


def run(running: Running, spec: RevertSpec) -> dict[str, Any]:
    """Returns the new revision's id."""
    loaded = load(running, spec.model, "head")
    with running.catalog.read() as session:
        way = history.path(session, loaded.revision.id)
        reverted = history.find_revision(session, loaded.model, spec.reverts)
        history.check_revert(way, reverted)
    revision = Revision(
        model_id=loaded.model.id or 0,
        parent=loaded.revision.id,
        kind="revert",
        reverts=reverted.id,
        message=spec.message or f"without {reverted.id}: {reverted.message}",
        fingerprint="",
    )
    revision.id = history.id_of(loaded.model, revision)
    edits = history.live_edits([*way, revision])
    delta = concatenate(
        read_delta(running.catalog.artifacts.path(edit.delta)) for edit in edits if edit.delta
    )
    check_tensors(loaded, delta)
    loaded.delta = delta
    loaded.weights.set(delta)
    revision.fingerprint = loaded.fingerprint()
    loaded.revision = revision
    check_everything(loaded)
    with running.catalog.write(durable=True) as session:
        model = history.find_model(session, spec.model)
        if model.head != revision.parent:
            raise InputError(
                f"the head of {model.name} moved to {model.head} meanwhile; revert again from there"
            )
        history.commit_revision(session, model, revision, "revert")
        return running.commit(session, {"revision": revision.id})
