"""How much memory some work took at its most: the device's where a model lies on one, else the process's."""

from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def forget_peak(device: torch.device) -> None:
    """Let the peak begin anew from here; where the system cannot do that, `peak_bytes` says None or more."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")  # proc(5): the high-water mark of the resident size becomes its present value
    except OSError:
        return


def peak_bytes(device: torch.device) -> int | None:
    """The largest since then, bytes: the model included and, of a process, what it had kept from before; None where the
    system (no Linux, no CUDA) does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
