"""Write a revision to a folder that others load, and prove it by loading it in another process."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..specs import ExportSpec
from ..worker.running import Running
from .writing import write_export


def run(running: Running, spec: ExportSpec) -> dict[str, Any]:
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
