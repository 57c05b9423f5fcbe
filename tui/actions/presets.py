"""The settings that a person saves for a model: what an edit takes where nobody says otherwise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...store.atomic_files import write_atomically
from ...store.errors import InputError
from ...store.home import Home

# Methods that keep their settings under another's name, as the shipped presets do.
_UNDER = {"r-rome": "rome"}


def save_preset(home: Home, model: str, method: str, settings: Mapping[str, Any], source: str) -> Path:
    """Save a method's single settings, `layers` among them, and where they are from; returns the file.

    What was saved for other methods stays; a kill leaves the old file.

    Raises:
        InputError: the file that is there is no preset.
    """
    path, key = home.preset(model), _UNDER.get(method, method)
    kept = _read(path)
    sources = kept.get("sources", {}) | {key: source}
    kept |= {"models": [model], "sources": sources, key: dict(settings)}
    text = json.dumps(kept, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"), private=True)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"the preset {path} is not JSON ({error}): mend or remove it") from None
    if not isinstance(kept, dict) or not isinstance(kept.get("sources", {}), dict):
        raise InputError(f"the preset {path} holds no settings by method: mend or remove it")
    return kept
