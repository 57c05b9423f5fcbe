"""Save the settings that edits of a model use by default."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...store.atomic_files import write_atomically
from ...store.errors import InputError
from ...store.home import Home

# These methods store their settings under another method's name, as the shipped presets do.
_STORED_AS = {"r-rome": "rome"}


def save_preset(home: Home, model: str, method: str, settings: Mapping[str, Any], source: str) -> Path:
    """Save some settings of a method, and where they come from; returns the file.

    Settings of other methods are kept. The file is replaced atomically.

    Raises:
        InputError: the existing file is not a valid preset.
    """
    path, key = home.preset(model), _STORED_AS.get(method, method)
    preset = _read(path)
    sources = preset.get("sources", {}) | {key: source}
    preset |= {"models": [model], "sources": sources, key: dict(settings)}
    text = json.dumps(preset, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"), private=True)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"the preset {path} is not valid JSON ({error}): repair or remove it") from None
    if not isinstance(preset, dict) or not isinstance(preset.get("sources", {}), dict):
        raise InputError(f"the preset {path} does not contain settings by method: repair or remove it")
    return preset
