"""Add a model: get its files, find its anatomy, and compute its fingerprint.

If retcon exported or published the model, its base is restored and every revision of its history is verified.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from sqlmodel import select
from transformers import PreTrainedModel

from ....store.catalog.tables import Model, Revision
from ....store.errors import InputError
from ....store.exchange.manifest import (
    BASE_MATRICES,
    MANIFEST,
    Manifest,
    add_steps,
    check_files,
    read_manifest,
)
from ....store.history import history
from ...exports.checkpoint import write_checkpoint
from ...model.anatomy import find_anatomy
from ...model.loading import (
    ModelFiles,
    detect_source_kind,
    fetch,
    fingerprint,
    hash_parameters,
    hash_tensor,
    load_model,
    load_tokenizer,
)
from ..specs import SHARD_BYTES, ModelSpec
from ..worker.running import RunningJob
from .history import verify_steps


def run(running: RunningJob, spec: ModelSpec) -> dict[str, Any]:
    """Add the model. Returns its id and its revision: the base, or for an export the exported revision."""
    with running.catalog.read() as session:
        if session.exec(select(Model).where(Model.name == spec.name)).first():
            raise InputError(f"A model named {spec.name!r} already exists. Choose another name with --name.")
    kind = detect_source_kind(spec.source)
    target = running.catalog.home.models / spec.name
    if running.job.attempt == 1 and kind in ("gguf", "starter"):
        # A failed job of the same name may have converted another model.
        shutil.rmtree(target, ignore_errors=True)
    files = _fetch(running, spec, spec.source, spec.commit)
    manifest = read_manifest(files.folder)
    if manifest is not None:
        return _add_export(running, spec, files, manifest)
    _, row = _load(running, spec, files.folder)
    row.source, row.source_kind, row.commit = spec.source, kind, files.commit
    with running.catalog.write(durable=True) as session:
        base = history.add_base(session, row)
        return running.commit_result(session, {"model": row.id, "name": row.name, "revision": base.id})


def _fetch(running: RunningJob, spec: ModelSpec, source: str, commit: str | None) -> ModelFiles:
    """Get the files of a source into the model's folder of this home."""
    return fetch(
        source,
        running.catalog.home.models / spec.name,
        revision=commit,
        trust_remote_code=spec.trust_remote_code,
        report=running.report_activity,
    )


def _load(running: RunningJob, spec: ModelSpec, folder: Path) -> tuple[PreTrainedModel, Model]:
    """Load a model, and build its row without a source."""
    running.report_activity("finding the anatomy")
    model = load_model(folder, running.job.device, trust_remote_code=spec.trust_remote_code)
    load_tokenizer(folder, spec.trust_remote_code)  # raises if the model has none
    anatomy = find_anatomy(model)
    running.report_activity("computing the fingerprint")
    digests = hash_parameters(model)
    parameters = list(model.parameters())
    row = Model(
        name=spec.name,
        source="",
        source_kind="folder",
        path=str(folder),
        architecture=anatomy.architecture,
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in parameters),
        size=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        anatomy=asdict(anatomy),
        fingerprint=fingerprint(digests),
        tensors=digests,
        trust_remote_code=spec.trust_remote_code,
    )
    return model, row


def _add_export(
    running: RunningJob, spec: ModelSpec, files: ModelFiles, manifest: Manifest
) -> dict[str, Any]:
    """Add the base of an export and its history. The head is the exported revision.

    Returns the new model's id, its head and the number of recovered revisions.

    Raises:
        InputError: a file differs from the manifest, the base is not available, or a revision is not verified.
    """
    folder, base = files.folder, manifest.base
    running.report_activity("hashing the files")
    check_files(folder, manifest)
    base_folder, commit = _find_base(running, spec, folder, manifest)
    model, row = _load(running, spec, base_folder)
    if row.fingerprint != base.fingerprint:
        raise InputError(
            f"The base of {spec.source} in {base_folder} has fingerprint {row.fingerprint[:12]}, {MANIFEST} says "
            f"{base.fingerprint[:12]}. It is not the base that was edited."
        )
    if base.reachable:
        row.source, row.source_kind, row.commit = base.source, base.source_kind, commit
    else:
        row.source, row.source_kind, row.commit = spec.source, files.source_kind, files.commit
    artifacts = verify_steps(running, folder, manifest, model, row.tensors)
    if manifest.kind == "checkpoint":
        _check_weights(folder, model, manifest, spec)
    with running.catalog.write(durable=True) as session:
        for artifact in artifacts:
            session.merge(artifact)
        base_row = manifest.steps[0].to_revision()
        if session.get(Revision, base_row.id) is not None:
            base_row.id = ""  # this catalog also has the model that was exported
        history.add_base(session, row, base_row)
        steps = add_steps(session, row, manifest)
        return running.commit_result(
            session,
            {"model": row.id, "name": row.name, "revision": steps[-1].id, "recovered": len(steps) - 1},
        )


def _check_weights(folder: Path, model: PreTrainedModel, manifest: Manifest, spec: ModelSpec) -> None:
    """Raise InputError if the checkpoint's weights differ from those of its history, which `model` has."""
    published = hash_parameters(load_model(folder, "cpu", trust_remote_code=spec.trust_remote_code))
    if fingerprint(published) != manifest.fingerprint:
        parameters = dict(model.named_parameters())
        differing = [
            name
            for name, digest in published.items()
            if name not in parameters or hash_tensor(parameters[name]) != digest
        ]
        raise InputError(f"The weights in {folder} differ from its history: {', '.join(differing[:3])}.")


def _find_base(
    running: RunningJob, spec: ModelSpec, folder: Path, manifest: Manifest
) -> tuple[Path, str | None]:
    """The base's folder, and its commit on the hub.

    Raises:
        InputError: neither a source nor this catalog has the base.
    """
    base, target = manifest.base, running.catalog.home.models / spec.name
    if base.reachable:
        files = _fetch(running, spec, base.source, base.commit)
        return files.folder, files.commit
    if manifest.kind == "checkpoint":
        running.report_activity("restoring the base")
        return _restore_base(folder, target, spec.trust_remote_code), None
    with running.catalog.read() as session:
        query = select(Model).where(Model.fingerprint == base.fingerprint)
        known = [one for one in session.exec(query) if not Path(one.path).is_relative_to(target.parent)]
    if not known:
        raise InputError(
            f"{spec.source} holds the edits of {base.name}, a model from a folder, but not its weights. Add that "
            f"model, then run `retcon edit import {folder} NAME`."
        )
    return Path(known[0].path), None


def _restore_base(folder: Path, target: Path, trust_remote_code: bool) -> Path:
    """Write the base of a checkpoint, from its weights and the base's edited matrices. Renamed when complete.

    Raises:
        InputError: a matrix does not fit the model.
    """
    model = load_model(folder, "cpu", trust_remote_code=trust_remote_code)
    if (folder / BASE_MATRICES).is_file():
        parameters = dict(model.named_parameters())
        for name, matrix in load_file(folder / BASE_MATRICES).items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != matrix.shape or parameter.dtype != matrix.dtype:
                raise InputError(f"{name} in {folder / BASE_MATRICES} does not fit the model.")
            parameter.data.copy_(matrix)
    temporary = target.with_name(target.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    write_checkpoint(model, load_tokenizer(folder, trust_remote_code), folder, temporary, SHARD_BYTES)
    temporary.rename(target)
    return target
