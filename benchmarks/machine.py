"""The machine that a figure was measured on, and the starter model that most are measured with."""

import os
import platform
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.loading import fetch, load_model, load_tokenizer


def description() -> dict[str, Any]:
    """Processor, cores, threads, GPU and versions."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("retcon", "torch", "transformers")},
    }


@cache
def starter() -> tuple[Decoder, PreTrainedTokenizerBase]:
    """The starter model in float32 on the CPU, and its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch("starter", Path(folder) / "starter")
        model, tokenizer = load_model(fetched.folder, "cpu"), load_tokenizer(fetched.folder)
    return Decoder(model, find_anatomy(model)), tokenizer
