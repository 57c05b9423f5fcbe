"""Export a revision to a folder, and verify it by loading it in another process."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ....prompts import fill_prompt
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
    """Export a revision. Returns the folder, its fingerprint, and the scores of its requests."""
    folder = Path(spec.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty. Name a new folder.")
    # Written to a temporary name and renamed, so that a killed job leaves no incomplete export.
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        manifest, check = write_export(
            running, spec.model, spec.revision, spec.export_kind, spec.shard_size, temporary
        )
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "folder": str(folder),
        "revision": manifest.revision,
        "what": manifest.kind,
        **asdict(check),
        "files": {name: file.size for name, file in manifest.files.items()},
    }


def write_export(
    running: RunningJob, name: str, revision: str, form: str, shard_size: int, folder: Path
) -> tuple[Manifest, ExportCheckResult]:
    """Write an export to `folder`, which is new or empty, and load it in another process. Returns both results.

    Raises:
        InputError: the revision does not have this form.
        RuntimeError: the export does not load to the revision's bits.
    """
    loaded = load(running, name, revision)
    loaded.verify_fingerprint()
    model = loaded.model
    folder.mkdir(parents=True, exist_ok=True)
    running.check_space(model.size if form == "checkpoint" else 0)
    running.report_activity("writing files", form)
    with running.catalog.read() as session:
        edits = history.live_edits(history.load_path(session, loaded.revision.id))
        base_files = hash_base_files(model.path)
        manifest = build_manifest(session, model, loaded.revision, form, program_version(), base_files)
    _write_weights(loaded, form, shard_size, folder, manifest)
    for step in manifest.steps:
        if step.delta and step.delta_file:
            (folder / step.delta_file).parent.mkdir(exist_ok=True)
            shutil.copyfile(running.catalog.artifacts.path(step.delta), folder / step.delta_file)
    manifest = replace(manifest, files=hash_files(folder))
    (folder / MANIFEST).write_text(manifest.as_text(), encoding="utf-8")
    running.report_activity("loading the export in another process")
    deltas = [step.delta_file for step in manifest.live_steps if step.delta_file]
    check = ExportCheck(
        form, str(folder), model.path, deltas, model.anatomy, model.trust_remote_code, _list_requests(edits)
    )
    del loaded
    result = check_export(check)
    if result.fingerprint != manifest.fingerprint:
        raise RuntimeError(f"the {form} in {folder} does not load to the revision's bits")
    return manifest, result


def _write_weights(loaded: Loaded, form: str, shard_size: int, folder: Path, manifest: Manifest) -> None:
    model = loaded.decoder.model
    if form == "checkpoint":
        write_checkpoint(model, loaded.tokenizer, Path(loaded.model.path), folder, shard_size)
        if loaded.delta and not manifest.base.reachable:
            (folder / BASE_MATRICES).parent.mkdir()
            write_matrices({name: loaded.weights.base(name) for name in loaded.delta}, folder / BASE_MATRICES)
    elif form == "adapter":
        base = manifest.base
        base_name = STARTER_NAME if base.source_kind == "starter" else base.source
        write_adapter(loaded.delta, model, folder, base_name, base.commit)
    elif not any(step.delta for step in manifest.steps):
        raise InputError("This revision has no edits, so it has no delta to export.")


def hash_base_files(folder: str) -> dict[str, File]:
    """The weight files of a base, with their sizes and digests."""
    paths = sorted(Path(folder).glob("*.safetensors"))
    return {path.name: File(sha256_of(path), path.stat().st_size) for path in paths}


def _list_requests(edits: Sequence[Revision]) -> list[tuple[str, str]]:
    """(prompt, target) of each request. Of two requests with the same prompt, the later one."""
    targets = {
        fill_prompt(str(request["prompt"]), request["subject"]): request["target_new"]
        for edit in edits
        for request in edit.requests
    }
    return list(targets.items())
