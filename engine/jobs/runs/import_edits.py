"""Put the edits of an export on a model with the same base."""

from pathlib import Path
from typing import Any

from ....store.catalog.tables import Model
from ....store.errors import InputError
from ....store.exchange.manifest import MANIFEST, Manifest, add_steps, check_files, read_manifest
from ....store.history import history
from ..specs import ImportEditsSpec
from ..worker.running import Running
from .loaded import check_everything, load
from .recovered import verify_steps


def run(running: Running, spec: ImportEditsSpec) -> dict[str, Any]:
    """Returns the revision that the head is at now, and all that the import brought."""
    folder = Path(spec.folder)
    manifest = manifest_in(folder)
    with running.catalog.read() as session:
        check_base(history.find_model(session, spec.model), manifest, folder)
    running.say("hashing the files")
    check_files(folder, manifest)
    loaded = load(running, spec.model, "base")
    check_everything(loaded)
    artifacts = verify_steps(running, folder, manifest, loaded.decoder.model, loaded.model.tensors)
    with running.catalog.write(durable=True) as session:
        model = history.find_model(session, spec.model)
        for artifact in artifacts:
            session.merge(artifact)
        steps = add_steps(session, model, manifest)
        return running.commit(
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
