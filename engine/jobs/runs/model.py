"""Add a model: bring its files here, find its anatomy, take its fingerprint."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ....store.catalog.tables import Model
from ....store.errors import InputError
from ....store.exchange.manifest import read_manifest
from ....store.history import history
from ...model.anatomy import Anatomy, find_anatomy
from ...model.loading import fetch, fingerprint, load_model, load_tokenizer, source_kind, tensor_digests
from ..specs import ModelSpec
from ..worker.running import Running


def run(running: Running, spec: ModelSpec) -> dict[str, Any]:
    """Returns the new model's id and its revision: the base, or of an export of retcon the one that was exported."""
    from sqlmodel import select

    with running.catalog.read() as session:
        if session.exec(select(Model).where(Model.name == spec.name)).first():
            raise InputError(f"there is a model named {spec.name!r} already; choose another with --name")
    kind = source_kind(spec.source)
    into = running.catalog.home.models / spec.name
    if running.job.attempt == 1 and kind in ("gguf", "starter"):
        # What a failed job of this name converted may be another model.
        shutil.rmtree(into, ignore_errors=True)
    fetched = fetch(
        spec.source, into, revision=spec.commit, trust_remote_code=spec.trust_remote_code, say=running.say
    )
    manifest = read_manifest(fetched.folder)
    if manifest is not None:
        from .published import add_published

        return add_published(running, spec, fetched, manifest)
    running.say("finding the anatomy")
    model = load_model(fetched.folder, running.job.device, trust_remote_code=spec.trust_remote_code)
    load_tokenizer(fetched.folder, spec.trust_remote_code)  # a model without one is of no use here
    anatomy = find_anatomy(model)
    running.say("taking the fingerprint")
    row = row_of(spec.name, model, anatomy, tensor_digests(model), fetched.folder)
    row.source, row.source_kind, row.commit = spec.source, kind, fetched.commit
    row.trust_remote_code = spec.trust_remote_code
    with running.catalog.write(durable=True) as session:
        base = history.add_base(session, row)
        return running.commit(session, {"model": row.id, "name": row.name, "revision": base.id})


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
