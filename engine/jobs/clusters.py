"""Jobs on Ray, from the terminal's side: where `--on` sends one. Loads no Ray."""

import importlib.util
import re

from ...store.errors import InputError

RAY, AUTO = "ray", "auto"
# Not by name: what PyPI has under it is another project.
_INSTALL = "pip install -e '.[ray]' in retcon's checkout"
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


def ray_device(on: str) -> str:
    """The device of a job that goes on Ray: `ray`, which it starts for itself on this box, or `ray:ADDRESS`.

    ADDRESS is HOST:PORT, or `auto`: that which this box is a node of when the job starts.

    Raises:
        InputError: it is neither, or Ray is not installed; says how to install it.
    """
    name, _, address = on.partition(":")
    if name != RAY:
        raise InputError(f"there is no {on!r} to work on; --on takes ray, ray:HOST:PORT or ray:auto")
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"--on ray needs Ray, which is not installed here; install it with: {_INSTALL}")
    if on != RAY and address != AUTO and not _ADDRESS.fullmatch(address):
        raise InputError(
            f"{address!r} is no address of a Ray; write --on ray:HOST:PORT as `ray start --head` tells it, or "
            "--on ray:auto (a ray:// address will not do: the job itself runs on a node of that Ray)"
        )
    return on


def is_on_ray(device: str) -> bool:
    """Whether a job's device is a Ray."""
    return device.partition(":")[0] == RAY


def address_of(device: str) -> str | None:
    """HOST:PORT of the Ray that is a job's device, or `auto`; None if it is the job's own."""
    return device.partition(":")[2] or None


def is_loopback(address: str) -> bool:
    """Whether only this box can reach it."""
    host = address.rpartition(":")[0]
    return host in ("localhost", "[::1]") or host.startswith("127.")
