"""Write a revision to a folder that transformers loads, and prove it by loading it again."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...loading import fingerprint, load_model, tensor_digests
from ..running import Running
from ..specs import ExportSpec
from .loaded import check_everything, load


def run(running: Running, spec: ExportSpec) -> dict[str, Any]:
    """Returns the folder and the fingerprint found in it."""
    if spec.what != "checkpoint":
        raise InputError(f"retcon exports a checkpoint, not {spec.what!r}")
    folder = Path(spec.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and is not empty; name a new folder")
    loaded = load(running, spec.model, spec.revision)
    check_everything(loaded)
    # Written aside and renamed when whole, so that a kill leaves no half checkpoint under the name.
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    running.say(f"writing {folder}")
    try:
        loaded.decoder.model.save_pretrained(aside)
        loaded.tokenizer.save_pretrained(aside)
        (aside / "retcon.json").write_text(
            json.dumps(_manifest(loaded.model.name, loaded.revision), indent=2)
        )
        running.say("loading it again")
        again = fingerprint(tensor_digests(load_model(aside, "cpu")))
        if again != loaded.revision.fingerprint:
            raise RuntimeError(f"what was written to {aside} does not load to the same bits")
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"folder": str(folder), "revision": loaded.revision.id, "fingerprint": again}


def _manifest(name: str, revision: Any) -> dict[str, Any]:
    return {
        "model": name,
        "revision": revision.id,
        "fingerprint": revision.fingerprint,
        "message": revision.message,
        "requests": revision.requests,
        "method": revision.method,
    }
