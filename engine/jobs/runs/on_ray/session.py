"""The connection to a Ray: one that runs already, or one of the job's own that is started and stopped with it."""

import hashlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from .....store.home import Home
from ....errors import InputError
from ...devices import get_ray_address, is_loopback
from ...worker.running import RunningJob

# A Unix socket's path has at most 107 bytes, and so many of them Ray takes below its folder.
_LONGEST_FOLDER = 107 - len("/session_2026-11-24_11-36-33_710965_1404900/sockets/plasma_store")
_STORE_BYTES = 500_000_000


@contextmanager
def connected(running: RunningJob) -> Iterator[None]:
    """Be connected to the job's Ray.

    Raises:
        InputError: there is no Ray at the address, or this box is no node of it.
    """
    address = get_ray_address(running.job.device)
    # No telemetry. Ray reads this and what follows when it is first imported, so nothing here imports it before.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None or is_loopback(address):
        # Ray's own switch (its name tells why it was made) to bind to 127.0.0.1, not to the host's address.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        print(
            f"Ray ({address}) is spoken to without RAY_AUTH_MODE=token: whoever reaches its ports can run programs "
            "on its nodes as you",
            file=sys.stderr,
        )
    running.report_activity("starting Ray" if address is None else f"connecting to Ray ({address})")
    # Ray puts a handler of its own in the place of the job's, which stops it at once.
    handler = signal.getsignal(signal.SIGTERM)
    with _named(address) if address else _own(running.catalog.home, running.id):
        signal.signal(signal.SIGTERM, handler)
        yield


@contextmanager
def _named(address: str) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Ray ({address}) cannot be used from here: {first} (the job must be started on one of its nodes, with "
            "the same versions of Python and Ray)"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own(home: Home, job_id: int) -> Iterator[None]:
    """A Ray that only this user's processes on this box can speak to."""
    folder = _folder(home, job_id)
    _sweep(folder)
    folder.mkdir(mode=0o700, parents=True)
    token = folder / "token"
    descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_secret())
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", str(token)
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            # Ray opens its own folder to all (0777): it lies in one that is not.
            _temp_dir=str(folder / "r"),
            object_store_memory=min(_STORE_BYTES, psutil.virtual_memory().available // 4),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
    finally:
        ray.shutdown()
        _sweep(folder)


@cache
def _secret() -> str:
    """One for this process, for Ray reads it but once: a job that waited for room on the disk starts another Ray."""
    return secrets.token_hex(32)


def _folder(home: Home, job_id: int) -> Path:
    """Where a job's own Ray has its files: in the home, or where its path is too long for sockets, beside it."""
    folder = home.root / "ray" / f"job-{job_id}"
    if len(os.fsencode(folder / "r")) <= _LONGEST_FOLDER:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"retcon-ray-{os.geteuid()}-{name}"


def _sweep(folder: Path) -> None:
    """End what is left of a Ray in a folder, and remove the folder. A driver that was killed leaves some agents."""
    left = [process for process in psutil.process_iter(["cmdline", "uids"]) if _is_of(process, folder)]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.geteuid()):
        raise InputError(f"{folder}, where this job's Ray would have its files, belongs to somebody else")
    shutil.rmtree(folder, ignore_errors=True)


def _is_of(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started with this folder among its arguments, by this user."""
    words, uids = process.info["cmdline"] or [], process.info["uids"]
    return uids is not None and uids.real == os.geteuid() and any(f"{folder}/r" in word for word in words)
