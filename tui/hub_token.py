"""Check whether huggingface_hub has a token, without reading it."""

import os
from pathlib import Path


def token_is_set() -> bool:
    """Whether an environment variable or a token file is set."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return bool(os.environ.get("HF_TOKEN")) or Path(os.environ.get("HF_TOKEN_PATH", home / "token")).is_file()
