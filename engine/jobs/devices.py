"""Devices that a job can run on: GPUs and the CPU of this machine, or a Ray cluster. Imports neither torch nor Ray."""

import re
import sys
from pathlib import Path

from ...extras import require_extra
from ...store.errors import InputError

CPU = "cpu"
RAY, AUTO = "ray", "auto"
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


def list_devices() -> list[str]:
    """`cuda:0`, `cuda:1`, .. for each GPU that the driver lists, then `cpu`."""
    try:
        count = len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        count = 0
    return [f"cuda:{index}" for index in range(count)] + [CPU]


def split_devices(device: str) -> list[str]:
    """The devices that a job holds: two for `cuda:0+cuda:1`, all of this machine for `ray`."""
    return list_devices() if device == RAY else device.split("+")


def measure_memory(device: str) -> int:
    """Bytes that this process holds: reserved memory of its GPUs, or its resident size."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return sum(torch.cuda.memory_reserved(part) for part in split_devices(device))
    import psutil

    size: int = psutil.Process().memory_info().rss
    return size


def parse_ray_device(on: str) -> str:
    """The device of a job that runs on Ray: `ray`, `ray:HOST:PORT` or `ray:auto`.

    With `ray` the job starts its own Ray on this machine. With `ray:auto` it joins the Ray that this machine is a node
    of when the job starts.

    Raises:
        InputError: the text has another form, or Ray is not installed.
    """
    name, _, address = on.partition(":")
    if name != RAY:
        raise InputError(f"--on {on!r} is not supported; --on takes ray, ray:HOST:PORT or ray:auto")
    require_extra("ray", "--on ray")
    if on != RAY and address != AUTO and not _ADDRESS.fullmatch(address):
        raise InputError(
            f"{address!r} is not a valid Ray address; write --on ray:HOST:PORT as `ray start --head` prints it, or "
            "--on ray:auto (a ray:// address does not work: the job itself runs on a node of that Ray)"
        )
    return on


def is_on_ray(device: str) -> bool:
    """Whether a job's device is a Ray cluster."""
    return device.partition(":")[0] == RAY


def get_ray_address(device: str) -> str | None:
    """HOST:PORT or `auto` of a job's Ray device; None if the job starts its own Ray."""
    return device.partition(":")[2] or None


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    host = address.rpartition(":")[0]
    return host in ("localhost", "[::1]") or host.startswith("127.")
