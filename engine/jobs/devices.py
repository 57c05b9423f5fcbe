"""The devices of this box, known without importing torch."""

import sys
from pathlib import Path

from .clusters import RAY

CPU = "cpu"


def devices() -> list[str]:
    """`cuda:0`, `cuda:1`, .. for each GPU that the driver shows, then `cpu`."""
    try:
        count = len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        count = 0
    return [f"cuda:{index}" for index in range(count)] + [CPU]


def parts(device: str) -> list[str]:
    """The devices that a job holds: of `cuda:0+cuda:1` two, for a model spread over them; of its own `ray` all."""
    return devices() if device == RAY else device.split("+")


def memory_of(device: str) -> int:
    """Bytes that this process holds: of its GPUs, or its resident size."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return sum(torch.cuda.memory_reserved(part) for part in parts(device))
    import psutil

    size: int = psutil.Process().memory_info().rss
    return size
