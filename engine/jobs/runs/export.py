"""Write a revision to a folder that others load, and prove it by loading it in another process."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ....store.catalog.artifacts import sha256_of
from ....store.catalog.tables import Revision
from ....store.exchange.manifest import BASE_MATRICES, MANIFEST, File, Manifest, build_manifest, hash_files
from ....store.history import history
from ...errors import InputError
from ...exports.adapter import write_adapter
from ...exports.check import ExportCheck, ExportCheckResult, check_export
from ...exports.checkpoint import write_checkpoint, write_matrices
from ..publication.card import STARTER_NAME
from ..publication.preview import program_version
from ..specs import ExportSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load


def run(running: RunningJob, spec: ExportSpec) -> dict[str, Any]:
    """Returns the folder, the fingerprint found in it and what its edits answered."""
    folder = Path(spec.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and is not empty; name a new folder")
    # Written aside and renamed when whole, so that a kill leaves no half export under the name.
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        export = write_export(running, spec.model, spec.revision, spec.what, spec.shard_size, aside)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"folder": str(folder)} | export.as_dict()


@dataclass(frozen=True)
class Export:
    """What was written, and what a fresh process found in it."""

    manifest: Manifest
    found: ExportCheckResult

    def as_dict(self) -> dict[str, Any]:
        return {
            "revision": self.manifest.revision,
            "what": self.manifest.kind,
            **asdict(self.found),
            "files": {name: file.size for name, file in self.manifest.files.items()},
        }


def write_export(
    running: RunningJob, name: str, revision: str, what: str, shard_size: int, folder: Path
) -> Export:
    """Write to `folder`, which is new or empty, and check what lies there.

    Raises:
        InputError: the revision has no such form.
        RuntimeError: what was written does not load to the revision's bits.
    """
    loaded = load(running, name, revision)
    loaded.verify_fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    running.check_space(loaded.model.size if what == "checkpoint" else 0)
    running.report_activity(f"writing the {what}")
    with running.catalog.read() as session:
        edits = history.live_edits(history.load_path(session, loaded.revision.id))
        manifest = build_manifest(
            session,
            loaded.model,
            loaded.revision,
            what,
            program_version(),
            base_files(loaded.model.path),
        )
    _write(loaded, what, shard_size, folder, manifest)
    for step in manifest.steps:
        if step.delta and step.delta_file:
            (folder / step.delta_file).parent.mkdir(exist_ok=True)
            shutil.copyfile(running.catalog.artifacts.path(step.delta), folder / step.delta_file)
    manifest = replace(manifest, files=hash_files(folder))
    (folder / MANIFEST).write_text(manifest.as_text(), encoding="utf-8")
    running.report_activity("loading it again in another process")
    check = ExportCheck(
        what, str(folder), loaded.model.path, [step.delta_file for step in manifest.live_steps if step.delta_file],
        loaded.model.anatomy, loaded.model.trust_remote_code, _asked(edits),
    )  # fmt: skip
    del loaded
    found = check_export(check)
    if found.fingerprint != manifest.fingerprint:
        raise RuntimeError(f"the {what} that was written to {folder} does not load to the revision's bits")
    return Export(manifest, found)


def _write(loaded: Loaded, what: str, shard_size: int, folder: Path, manifest: Manifest) -> None:
    model = loaded.decoder.model
    if what == "checkpoint":
        write_checkpoint(model, loaded.tokenizer, Path(loaded.model.path), folder, shard_size)
        if loaded.delta and not manifest.base.reachable:
            (folder / BASE_MATRICES).parent.mkdir()
            write_matrices({name: loaded.weights.base(name) for name in loaded.delta}, folder / BASE_MATRICES)
    elif what == "adapter":
        base = manifest.base
        named = STARTER_NAME if base.source_kind == "starter" else base.source
        write_adapter(loaded.delta, model, folder, named, base.commit)
    elif not any(step.delta for step in manifest.steps):
        raise InputError("this revision has no edits in it, so there is no delta to take home")


def base_files(folder: str) -> dict[str, File]:
    """The weight files of a base with their digests."""
    paths = sorted(Path(folder).glob("*.safetensors"))
    return {path.name: File(sha256_of(path), path.stat().st_size) for path in paths}


def _asked(edits: Sequence[Revision]) -> list[tuple[str, str]]:
    """The prompt and the target of each request; of two with one prompt the later."""
    asked = {
        str(request["prompt"]).replace("{}", request["subject"]): request["target_new"]
        for edit in edits
        for request in edit.requests
    }
    return list(asked.items())
