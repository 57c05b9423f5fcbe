"""Jobs on a model's history: revert an edit, verify a revision, and import the edits of an export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from ....store.catalog.tables import Artifact, Revision
from ....store.errors import InputError
from ....store.exchange.manifest import MANIFEST, Manifest, add_steps, check_files, read_manifest
from ....store.history import history
from ...model.delta import Delta, Materializer, concatenate, is_transposed, read_delta
from ...model.loading import check_safetensors, fingerprint, hash_tensor
from ..specs import ImportEditsSpec, RevertSpec, VerifySpec
from ..worker.running import RunningJob
from .loaded import load


def run_revert(running: RunningJob, spec: RevertSpec) -> dict[str, Any]:
    """Add a revision without one of the head's edits. Returns its id."""
    loaded = load(running, spec.model, "head")
    with running.catalog.read() as session:
        path = history.load_path(session, loaded.revision.id)
        reverted = history.find_revision(session, loaded.model, spec.reverts)
        history.check_revert(path, reverted)
    revision = Revision(
        model_id=loaded.model.id or 0,
        parent=loaded.revision.id,
        kind="revert",
        reverts=reverted.id,
        message=spec.message or f"without {reverted.id}: {reverted.message}",
        fingerprint="",
    )
    revision.id = history.id_of(loaded.model, revision)
    edits = history.live_edits([*path, revision])
    deltas = (read_delta(running.catalog.artifacts.path(edit.delta)) for edit in edits if edit.delta)
    loaded.place(revision, concatenate(deltas))
    revision.fingerprint = loaded.fingerprint()
    loaded.verify_fingerprint()
    with running.catalog.write(durable=True) as session:
        model = history.find_model(session, spec.model)
        if model.head != revision.parent:
            raise InputError(
                f"The head of {model.name} moved to {model.head} during the revert. Revert again from there."
            )
        history.commit_revision(session, model, revision, "revert")
        return running.commit_result(session, {"revision": revision.id})


def run_verify(running: RunningJob, spec: VerifySpec) -> dict[str, Any]:
    """Compute a revision's weights and hash every tensor. Returns its id, fingerprint and number of tensors."""
    loaded = load(running, spec.model, spec.revision)
    running.report_activity("hashing every tensor")
    found = loaded.verify_fingerprint()
    return {"verified": loaded.revision.id, "fingerprint": found, "tensors": len(loaded.model.tensors)}


def run_import_edits(running: RunningJob, spec: ImportEditsSpec) -> dict[str, Any]:
    """Add the edits of an export to a model with the same base. Returns the new head and all imported ids.

    Raises:
        InputError: the folder is not an export, or its edits were made on another base.
    """
    folder = Path(spec.folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} is not an export of retcon: it has no {MANIFEST}.")
    with running.catalog.read() as session:
        model, base = history.find_model(session, spec.model), manifest.base
    if model.fingerprint != base.fingerprint:
        raise InputError(
            f"The edits in {folder} were made on {base.name} ({base.source}, {base.dtype}, fingerprint "
            f"{base.fingerprint[:12]}). {model.name} has another base ({model.source}, {model.dtype}, fingerprint "
            f"{model.fingerprint[:12]})."
        )
    running.report_activity("hashing the files")
    check_files(folder, manifest)
    loaded = load(running, spec.model, "base")
    loaded.verify_fingerprint()
    artifacts = verify_steps(running, folder, manifest, loaded.decoder.model, loaded.model.tensors)
    with running.catalog.write(durable=True) as session:
        model = history.find_model(session, spec.model)
        for artifact in artifacts:
            session.merge(artifact)
        steps = add_steps(session, model, manifest)
        return running.commit_result(
            session, {"revision": steps[-1].id, "imported": [step.id for step in steps[1:]]}
        )


def verify_steps(
    running: RunningJob, folder: Path, manifest: Manifest, model: PreTrainedModel, tensors: dict[str, str]
) -> list[Artifact]:
    """Compute each revision of a manifest on its base, compare the fingerprints, and store the deltas.

    `model` is the base; it ends with the weights of the last revision. `tensors` are the digests of its parameters. The
    artifacts have no rows yet: merge them in the transaction that adds the revisions.

    Raises:
        InputError: a delta does not fit the model, or a revision gives another fingerprint.
    """
    weights = Materializer(model)
    files = {step.id: folder / step.delta_file for step in manifest.steps if step.delta_file}
    deltas = {id: _read_foreign_delta(file, model) for id, file in files.items()}
    for number, step in enumerate(manifest.steps, start=1):
        running.report_activity("verifying revisions", step.id)
        delta = concatenate(
            deltas[edit.id] for edit in replace(manifest, steps=manifest.steps[:number]).live_steps
        )
        weights.set(delta)
        changed = {name: hash_tensor(model.get_parameter(name)) for name in delta}
        found = fingerprint(tensors | changed)
        if found != step.fingerprint:
            raise InputError(
                f"Revision {step.id} of {folder} has fingerprint {found[:12]} on this base, its manifest says "
                f"{step.fingerprint[:12]}. It was made on another base, or its files were changed."
            )
    return [running.catalog.artifacts.put_file(file) for file in files.values()]


def _read_foreign_delta(path: Path, model: PreTrainedModel) -> Delta:
    """Read an untrusted delta file and check it against the model.

    Raises:
        InputError: the file is not a delta, has other shapes than the model, or holds numbers that are not finite.
    """
    check_safetensors(path)
    try:
        delta = read_delta(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a delta: {error}.") from error
    parameters = dict(model.named_parameters())
    for name, factors in delta.items():
        if name not in parameters:
            raise InputError(f"{path} changes {name}, which this model does not have.")
        shape = tuple(parameters[name].shape)
        expected = shape[::-1] if is_transposed(model, name) else shape
        is_product = factors.a.ndim == factors.b.ndim == 2 and factors.b.shape[1] == factors.a.shape[0]
        if not is_product or (factors.b.shape[0], factors.a.shape[1]) != expected:
            raise InputError(f"{path} changes {name} with another shape than {list(expected)}.")
        if not factors.is_finite:
            raise InputError(f"{path} holds numbers for {name} that are not finite.")
    return delta
