"""The connection to a Ray: a running one, or one that is started and stopped with the job."""

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
from pathlib import Path

import psutil

from .....store.home import Home
from ....errors import InputError
from ...devices import get_ray_address, is_loopback
from ...worker.running import RunningJob

# The path of a Unix socket has at most 107 bytes. Ray adds this many below its folder.
_MAX_FOLDER_BYTES = 107 - len("/session_2026-11-24_11-36-33_710965_1404900/sockets/plasma_store")
_STORE_BYTES = 500_000_000
# One per process, because Ray reads it once, and a job that waited for disk space starts a second Ray.
_TOKEN = secrets.token_hex(32)


@contextmanager
def connect(running: RunningJob) -> Iterator[None]:
    """Connect this process to the job's Ray for a `with` block.

    Raises:
        InputError: no Ray runs at the address, or this machine is not one of its nodes.
    """
    address = get_ray_address(running.job.device)
    # Disables telemetry. Ray reads its variables at the first import, so no module imports it before this point.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None or is_loopback(address):
        # With this variable Ray binds to 127.0.0.1 instead of the host's address; its name has historical reasons.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        print(
            f"The connection to Ray ({address}) is not authenticated. Anyone who can reach its ports can run programs "
            "on its nodes as you. Set RAY_AUTH_MODE=token.",
            file=sys.stderr,
        )
    running.report_activity("connecting to Ray" if address else "starting Ray", address or "")
    # Ray replaces the job's handler of SIGTERM, which stops the job at once.
    handler = signal.getsignal(signal.SIGTERM)
    with _join(address) if address else _start(running.catalog.home, running.id):
        signal.signal(signal.SIGTERM, handler)
        yield


@contextmanager
def _join(address: str) -> Iterator[None]:
    """Join a running Ray."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Cannot connect to Ray ({address}): {first}. Start the job on one of its nodes, with the same versions of "
            "Python and Ray."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _start(home: Home, job_id: int) -> Iterator[None]:
    """Start a Ray that only processes of this user on this machine can connect to."""
    folder = _folder(home, job_id)
    _remove(folder)
    folder.mkdir(mode=0o700, parents=True)
    token = folder / "token"
    descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_TOKEN)
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", str(token)
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            # Ray makes its own folder writable for all (0777), so it lies inside a private one.
            _temp_dir=str(folder / "r"),
            object_store_memory=min(_STORE_BYTES, psutil.virtual_memory().available // 4),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
    finally:
        ray.shutdown()
        _remove(folder)


def _folder(home: Home, job_id: int) -> Path:
    """The folder of a job's own Ray: in RETCON_HOME, or in the temporary folder if its path is too long for sockets."""
    folder = home.root / "ray" / f"job-{job_id}"
    if len(os.fsencode(folder / "r")) <= _MAX_FOLDER_BYTES:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"retcon-ray-{os.geteuid()}-{name}"


def _remove(folder: Path) -> None:
    """Kill the remaining processes of a Ray and remove its folder. A killed driver leaves some agents behind."""
    remaining = [process for process in psutil.process_iter(["cmdline", "uids"]) if _uses(process, folder)]
    for process in remaining:
        process.kill()
    psutil.wait_procs(remaining, timeout=10)
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.geteuid()):
        raise InputError(f"The folder of this job's Ray, {folder}, belongs to another user. Remove it.")
    shutil.rmtree(folder, ignore_errors=True)


def _uses(process: psutil.Process, folder: Path) -> bool:
    """Whether this user started the process with the folder among its arguments."""
    words, uids = process.info["cmdline"] or [], process.info["uids"]
    return uids is not None and uids.real == os.geteuid() and any(f"{folder}/r" in word for word in words)
