"""The settings that a person saves for a model: what an edit takes where nobody says otherwise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..store.home import Home
from ..store.whole_files import write_whole

# Methods that keep their settings under another's name, as the shipped presets do.
_UNDER = {"r-rome": "rome"}


def save_preset(home: Home, model: str, method: str, settings: Mapping[str, Any], source: str) -> Path:
    """Save a method's single settings, `layers` among them, and where they are from; returns the file.

    What was saved for other methods stays; a kill leaves the old file.
    """
    path, key = home.preset(model), _UNDER.get(method, method)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    sources = kept.get("sources", {}) | {key: source}
    kept |= {"models": [model], "sources": sources, key: dict(settings)}
    text = json.dumps(kept, indent=2) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"), private=True)
    return path
