"""Add a model: bring its files here, find its anatomy, take its fingerprint."""

import shutil
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
from ...model.anatomy import Anatomy, find_anatomy
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
    """Returns the new model's id and its revision: the base, or of an export of retcon the one that was exported."""
    from sqlmodel import select

    with running.catalog.read() as session:
        if session.exec(select(Model).where(Model.name == spec.name)).first():
            raise InputError(f"there is a model named {spec.name!r} already; choose another with --name")
    kind = detect_source_kind(spec.source)
    into = running.catalog.home.models / spec.name
    if running.job.attempt == 1 and kind in ("gguf", "starter"):
        # What a failed job of this name converted may be another model.
        shutil.rmtree(into, ignore_errors=True)
    fetched = fetch(
        spec.source,
        into,
        revision=spec.commit,
        trust_remote_code=spec.trust_remote_code,
        report=running.report_activity,
    )
    manifest = read_manifest(fetched.folder)
    if manifest is not None:
        return add_published(running, spec, fetched, manifest)
    running.report_activity("finding the anatomy")
    model = load_model(fetched.folder, running.job.device, trust_remote_code=spec.trust_remote_code)
    load_tokenizer(fetched.folder, spec.trust_remote_code)  # a model without one is of no use here
    anatomy = find_anatomy(model)
    running.report_activity("taking the fingerprint")
    row = row_of(spec.name, model, anatomy, hash_parameters(model), fetched.folder)
    row.source, row.source_kind, row.commit = spec.source, kind, fetched.commit
    row.trust_remote_code = spec.trust_remote_code
    with running.catalog.write(durable=True) as session:
        base = history.add_base(session, row)
        return running.commit_result(session, {"model": row.id, "name": row.name, "revision": base.id})


def row_of(
    name: str, model: PreTrainedModel, anatomy: Anatomy, digests: dict[str, str], folder: Path
) -> Model:
    """A model's row, without where it came from."""
    parameters = list(model.parameters())
    return Model(
        name=name,
        source="",
        source_kind="folder",
        path=str(folder),
        architecture=anatomy.architecture,
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in parameters),
        size=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        anatomy=anatomy.as_dict(),
        fingerprint=fingerprint(digests),
        tensors=digests,
    )


def add_published(
    running: RunningJob, spec: ModelSpec, fetched: ModelFiles, manifest: Manifest
) -> dict[str, Any]:
    """Add the base of an export under the spec's name, its history on it, and the head at the exported revision.

    Returns the new model's id, its head and the number of revisions recovered.

    Raises:
        InputError: a file is not what the manifest says, the base cannot be had, a revision does not verify.
    """
    folder = fetched.folder
    running.report_activity("hashing the files")
    check_files(folder, manifest)
    base_folder, commit = _base(running, spec, folder, manifest)
    running.report_activity("finding the anatomy of the base")
    model = load_model(base_folder, running.job.device, trust_remote_code=spec.trust_remote_code)
    load_tokenizer(base_folder, spec.trust_remote_code)
    anatomy, digests = find_anatomy(model), hash_parameters(model)
    if fingerprint(digests) != manifest.base.fingerprint:
        raise InputError(
            f"the base of {spec.source} that lies in {base_folder} has fingerprint {fingerprint(digests)[:12]}, "
            f"{MANIFEST} says {manifest.base.fingerprint[:12]}: it is not the base that was edited"
        )
    base = manifest.base
    row = row_of(spec.name, model, anatomy, digests, base_folder)
    row.source, row.source_kind, row.commit = base.source, base.source_kind, commit
    row.trust_remote_code = spec.trust_remote_code
    if not base.reachable:
        row.source, row.source_kind, row.commit = spec.source, fetched.source_kind, fetched.commit
    artifacts = verify_steps(running, folder, manifest, model, digests)
    if manifest.kind == "checkpoint":
        _check_weights(folder, model, manifest, spec)
    with running.catalog.write(durable=True) as session:
        for artifact in artifacts:
            session.merge(artifact)
        base_row = manifest.steps[0].to_revision()
        if session.get(Revision, base_row.id) is not None:
            base_row.id = ""  # the model that it was exported from is in this catalog, too
        history.add_base(session, row, base_row)
        steps = add_steps(session, row, manifest)
        return running.commit_result(
            session,
            {"model": row.id, "name": row.name, "revision": steps[-1].id, "recovered": len(steps) - 1},
        )


def _check_weights(folder: Path, made: PreTrainedModel, manifest: Manifest, spec: ModelSpec) -> None:
    """Whether the weights that were published are those that the history comes to."""
    published = hash_parameters(load_model(folder, "cpu", trust_remote_code=spec.trust_remote_code))
    if fingerprint(published) != manifest.fingerprint:
        differing = [
            name for name, digest in published.items()
            if name not in dict(made.named_parameters()) or hash_tensor(made.get_parameter(name)) != digest
        ]  # fmt: skip
        raise InputError(
            f"the weights in {folder} are not those that its history comes to: {', '.join(differing[:3])} differ"
        )


def _base(running: RunningJob, spec: ModelSpec, folder: Path, manifest: Manifest) -> tuple[Path, str | None]:
    """The base's folder and its commit on the hub."""
    base, into = manifest.base, running.catalog.home.models / spec.name
    if base.reachable:
        fetched = fetch(
            base.source,
            into,
            revision=base.commit,
            trust_remote_code=spec.trust_remote_code,
            report=running.report_activity,
        )
        return fetched.folder, fetched.commit
    if manifest.kind == "checkpoint":
        running.report_activity("putting the base together")
        return _put_together(folder, into, spec.trust_remote_code), None
    with running.catalog.read() as session:
        query = select(Model).where(Model.fingerprint == base.fingerprint)
        known = [one for one in session.exec(query) if not Path(one.path).is_relative_to(into.parent)]
    if not known:
        raise InputError(
            f"{spec.source} holds the edits of {base.name}, a model from a folder, but not its weights: add that "
            f"model, then `retcon edit import {folder} NAME`"
        )
    return Path(known[0].path), None


def _put_together(folder: Path, into: Path, trust_remote_code: bool) -> Path:
    """The base out of a checkpoint and the matrices that the edits rewrote; written aside and renamed when whole."""
    model = load_model(folder, "cpu", trust_remote_code=trust_remote_code)
    if (folder / BASE_MATRICES).is_file():
        for name, matrix in load_file(folder / BASE_MATRICES).items():
            parameter = dict(model.named_parameters()).get(name)
            if parameter is None or parameter.shape != matrix.shape or parameter.dtype != matrix.dtype:
                raise InputError(f"{folder / BASE_MATRICES} holds {name}, which does not fit the model")
            parameter.data.copy_(matrix)
    aside = into.with_name(into.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(into, ignore_errors=True)
    write_checkpoint(model, load_tokenizer(folder, trust_remote_code), folder, aside, SHARD_BYTES)
    aside.rename(into)
    return into
