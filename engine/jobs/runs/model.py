"""Add a model: bring its files here, find its anatomy, take its fingerprint."""

import shutil
from typing import Any

from ....store import history
from ....store.errors import InputError
from ....store.tables import Model
from ...anatomy import find_anatomy
from ...loading import fetch, fingerprint, load_model, load_tokenizer, source_kind, tensor_digests
from ..running import Running
from ..specs import ModelSpec


def run(running: Running, spec: ModelSpec) -> dict[str, Any]:
    """Returns the new model's id and base revision."""
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
    running.say("finding the anatomy")
    model = load_model(fetched.folder, running.job.device, trust_remote_code=spec.trust_remote_code)
    load_tokenizer(fetched.folder, spec.trust_remote_code)  # a model without one is of no use here
    anatomy = find_anatomy(model)
    running.say("taking the fingerprint")
    digests = tensor_digests(model)
    parameters = list(model.parameters())
    row = Model(
        name=spec.name,
        source=spec.source,
        source_kind=kind,
        commit=fetched.commit,
        path=str(fetched.folder),
        architecture=anatomy.architecture,
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in parameters),
        size=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        anatomy=anatomy.as_dict(),
        fingerprint=fingerprint(digests),
        tensors=digests,
        trust_remote_code=spec.trust_remote_code,
    )
    with running.catalog.write(durable=True) as session:
        base = history.add_base(session, row)
        return running.commit(session, {"model": row.id, "name": row.name, "revision": base.id})
