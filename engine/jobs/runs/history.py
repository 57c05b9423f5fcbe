"""Take one edit out of the middle: a new revision whose weights never had it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from ....store.catalog.tables import Artifact, Model, Revision
from ....store.errors import InputError
from ....store.exchange.manifest import MANIFEST, Manifest, Step, add_steps, check_files, read_manifest
from ....store.history import history
from ...model.delta import Delta, Materializer, concatenate, is_transposed, read_delta
from ...model.loading import check_safetensors, fingerprint, hash_tensor
from ..specs import ImportEditsSpec, RevertSpec, VerifySpec
from ..worker.running import RunningJob
from .loaded import check_everything, check_tensors, load


def run_revert(running: RunningJob, spec: RevertSpec) -> dict[str, Any]:
    """Returns the new revision's id."""
    loaded = load(running, spec.model, "head")
    with running.catalog.read() as session:
        way = history.load_path(session, loaded.revision.id)
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
        return running.commit_result(session, {"revision": revision.id})


def run_verify(running: RunningJob, spec: VerifySpec) -> dict[str, Any]:
    """Returns the revision, its fingerprint and how many tensors were hashed."""
    loaded = load(running, spec.model, spec.revision)
    running.report_activity("hashing every tensor")
    found = check_everything(loaded)
    return {"verified": loaded.revision.id, "fingerprint": found, "tensors": len(loaded.model.tensors)}


def run_import_edits(running: RunningJob, spec: ImportEditsSpec) -> dict[str, Any]:
    """Returns the revision that the head is at now, and all that the import brought."""
    folder = Path(spec.folder)
    manifest = manifest_in(folder)
    with running.catalog.read() as session:
        check_base(history.find_model(session, spec.model), manifest, folder)
    running.report_activity("hashing the files")
    check_files(folder, manifest)
    loaded = load(running, spec.model, "base")
    check_everything(loaded)
    artifacts = verify_steps(running, folder, manifest, loaded.decoder.model, loaded.model.tensors)
    with running.catalog.write(durable=True) as session:
        model = history.find_model(session, spec.model)
        for artifact in artifacts:
            session.merge(artifact)
        steps = add_steps(session, model, manifest)
        return running.commit_result(
            session, {"revision": steps[-1].id, "imported": [step.id for step in steps[1:]]}
        )


def manifest_in(folder: Path) -> Manifest:
    """The manifest of a folder that was named as an export.

    Raises:
        InputError: there is none.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} is no export of retcon: it has no {MANIFEST}")
    return manifest


def check_base(model: Model, manifest: Manifest, folder: Path) -> None:
    """Refuse edits that were made on other weights than the model's base.

    Raises:
        InputError: naming both.
    """
    if model.fingerprint != manifest.base.fingerprint:
        base = manifest.base
        raise InputError(
            f"{folder} holds edits of {base.name} ({base.source}, {base.dtype}, fingerprint "
            f"{base.fingerprint[:12]}); {model.name} is another base ({model.source}, {model.dtype}, fingerprint "
            f"{model.fingerprint[:12]})"
        )


def verify_steps(
    running: RunningJob, folder: Path, manifest: Manifest, model: PreTrainedModel, tensors: dict[str, str]
) -> list[Artifact]:
    """Make each revision of a manifest on its base, compare fingerprints, and store the deltas.

    `model` is the base, `tensors` the digests of its parameters. It is left at the last revision. The artifacts are
    returned without their rows: merge them in the transaction that adds the revisions.

    Raises:
        InputError: a delta does not fit the model, or a revision does not come to its fingerprint.
    """
    weights = Materializer(model)
    deltas = {step.id: _delta(folder / step.delta_file, model) for step in manifest.steps if step.delta_file}
    for number, step in enumerate(manifest.steps, start=1):
        running.report_activity(f"verifying revision {step.id}")
        so_far = replace(manifest, steps=manifest.steps[:number])
        delta = concatenate(deltas[edit.id] for edit in so_far.live_steps)
        weights.set(delta)
        touched = {name: hash_tensor(model.get_parameter(name)) for name in delta}
        _compare(step, fingerprint(tensors | touched), folder)
    files = [folder / step.delta_file for step in manifest.steps if step.delta_file]
    return [running.catalog.artifacts.put_file(file) for file in files]


def _compare(step: Step, found: str, folder: Path) -> None:
    if found != step.fingerprint:
        raise InputError(
            f"revision {step.id} of {folder} comes to the fingerprint {found[:12]} on this base, its manifest says "
            f"{step.fingerprint[:12]}: it was made on another base, or its files were changed"
        )


def _delta(path: Path, model: PreTrainedModel) -> Delta:
    """A delta from a file of a stranger, fitted against the model that it is to change."""
    check_safetensors(path)
    try:
        delta = read_delta(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} holds no delta: {error}") from error
    parameters = dict(model.named_parameters())
    for name, factors in delta.items():
        if name not in parameters:
            raise InputError(f"{path} changes {name}, which this model does not have")
        shape = tuple(parameters[name].shape)
        wanted = shape[::-1] if is_transposed(model, name) else shape
        fits = factors.a.ndim == factors.b.ndim == 2 and factors.b.shape[1] == factors.a.shape[0]
        if not fits or (factors.b.shape[0], factors.a.shape[1]) != wanted:
            raise InputError(f"{path} changes {name} by a matrix of another shape than {list(wanted)}")
        if not factors.is_finite:
            raise InputError(f"{path} holds numbers for {name} that are not finite")
    return delta
