"""The home folder, `RETCON_HOME`: the catalog and all files. Private to its user (0700, files 0600)."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .atomic_files import sync_path
from .errors import InputError


def home() -> Path:
    """`$RETCON_HOME`, or `retcon` in the user's data folder. Absolute; not created here."""
    setting = os.environ.get("RETCON_HOME", "")
    if setting:
        return Path(setting).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification ignores a relative XDG_DATA_HOME.
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "retcon"


class _Inside:
    """The path of a name under the root of a `Home`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, home: "Home", _owner: object) -> Path:
        return home.root / self.name


@dataclass(frozen=True)
class Home:
    """The folders under one root. Nothing is created before `prepare()`."""

    root: Path

    # The SQLite file; its `-wal` and `-shm` are beside it.
    catalog = _Inside("catalog.db")
    # Large files, each named by its sha256.
    artifacts = _Inside("artifacts")
    # Weights that the program downloaded or converted.
    models = _Inside("models")
    # One log per job.
    logs = _Inside("logs")
    # Files that are only locked, never read.
    locks = _Inside("locks")
    # Exports during their publication, one folder per revision.
    outbox = _Inside("outbox")
    # Copies of the catalog, one before each migration.
    backups = _Inside("backups")
    # Corrupt artifacts, named by digest and inode. Created when needed.
    quarantine = _Inside("quarantine")
    # The user's settings, one file per model.
    hparams = _Inside("hparams")

    def job_log(self, job_id: int) -> Path:
        """The log of a job's process."""
        return self.logs / f"job-{job_id}.log"

    def preset(self, model: str) -> Path:
        """The file with the user's settings for a model."""
        return self.hparams / f"{model}.json"

    def prepare(self) -> None:
        """Create missing folders (0700) and reject folders that other users can write to.

        Raises InputError if the root is a file or cannot be created, or if it, a folder in it or the catalog belongs to
        another user or is group or world writable: that user could replace the weights that this user loads.
        """
        inside = (self.artifacts, self.models, self.logs, self.locks, self.backups, self.hparams)
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            _private_folder(self.root)
            _check_access(self.root)
            created = [_private_folder(folder) for folder in inside]
            for folder in inside:
                _check_access(folder)
            if self.catalog.exists():
                _check_access(self.catalog)
            if any(created):
                sync_path(self.root)
        except OSError as error:
            raise InputError(
                f"{self.root} cannot be used as the home folder ({error.strerror or error}): "
                "make it writable, or set RETCON_HOME to another folder."
            ) from error


def _check_access(path: Path) -> None:
    """Raise InputError if another user owns the path or can write to it."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{path} belongs to another user (uid {found.st_uid}, this is uid {os.geteuid()}): "
            "set RETCON_HOME to your own folder."
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(
            f"{path} can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"run `chmod {700 if stat.S_ISDIR(found.st_mode) else 600} {path}`, or set RETCON_HOME to another folder."
        )


def _private_folder(folder: Path) -> bool:
    """Create a folder with 0700 whatever the umask. Returns False for an existing folder, whose mode stays."""
    if folder.is_dir():
        return False
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.is_dir():  # another process has created it
            return False
        raise
    folder.chmod(0o700)
    return True


_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "fuse.sshfs"}


def network_filesystem(path: Path) -> str | None:
    """The type of the network filesystem of `path`; None on a local one, or if unknown.

    SQLite's WAL shares memory between processes of ONE host, and flock may do nothing on a network filesystem: two
    hosts would corrupt a shared catalog. `retcon doctor` prints a warning.
    """
    kind = filesystem(path)
    return kind if kind in _NETWORK else None


def filesystem(path: Path) -> str | None:
    """The kernel's name of the filesystem type of `path`; None if unknown."""
    import psutil

    resolved = path.resolve()
    # Of two mounts on one folder, the later one is visible.
    mounts = [one for one in psutil.disk_partitions(all=True) if resolved.is_relative_to(one.mountpoint)]
    return max(reversed(mounts), key=lambda one: len(one.mountpoint)).fstype if mounts else None
