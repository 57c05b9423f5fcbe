"""The devices of this box, known without importing torch."""

from pathlib import Path

CPU = "cpu"


def devices() -> list[str]:
    """`cuda:0`, `cuda:1`, .. for each GPU that the driver shows, then `cpu`."""
    try:
        count = len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        count = 0
    return [f"cuda:{index}" for index in range(count)] + [CPU]
