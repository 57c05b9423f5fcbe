"""A description of the machine, the starter model, and a timer. Most benchmarks use all three."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.loading import fetch, load_model, load_tokenizer

T = TypeVar("T")


def describe_machine() -> dict[str, Any]:
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
def load_starter() -> tuple[Decoder, PreTrainedTokenizerBase]:
    """The starter model in float32 on the CPU, and its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch("starter", Path(folder) / "starter")
        model, tokenizer = load_model(fetched.folder, "cpu"), load_tokenizer(fetched.folder)
    return Decoder(model, find_anatomy(model)), tokenizer


def time_call(function: Callable[[], T], times: int = 1) -> tuple[float, T]:
    """Call a function `times` times. Returns the shortest call in seconds, and the last result."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return min(seconds), result
