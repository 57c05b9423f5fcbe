"""Whether a token for the hub is kept on this box. Its value is not looked at."""

import os
from pathlib import Path


def token_is_set() -> bool:
    """Whether huggingface_hub would find one."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return bool(os.environ.get("HF_TOKEN")) or Path(os.environ.get("HF_TOKEN_PATH", home / "token")).is_file()
