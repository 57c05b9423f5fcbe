"""The one folder in which everything lives: `RETCON_HOME`. Private to its user (0700, files 0600)."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .atomic_files import sync_folder
from .errors import InputError


def home() -> Path:
    """`$RETCON_HOME`, or `retcon` in the user's data folder. Absolute; not created here."""
    given = os.environ.get("RETCON_HOME", "")
    if given:
        return Path(given).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG rules say that a relative XDG_DATA_HOME is to be ignored.
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "retcon"


@dataclass(frozen=True)
class Home:
    """The folders under one root. Nothing is created before `prepare()`."""

    root: Path

    @property
    def catalog(self) -> Path:
        """The SQLite file; its `-wal` and `-shm` lie beside it."""
        return self.root / "catalog.db"

    @property
    def artifacts(self) -> Path:
        """Large files, each under its sha256."""
        return self.root / "artifacts"

    @property
    def models(self) -> Path:
        """Weights that the program downloaded or converted."""
        return self.root / "models"

    @property
    def logs(self) -> Path:
        """One log a job."""
        return self.root / "logs"

    def job_log(self, job_id: int) -> Path:
        """Where a job's process writes what it has to say."""
        return self.logs / f"job-{job_id}.log"

    @property
    def locks(self) -> Path:
        """Files that are only ever locked, never read."""
        return self.root / "locks"

    @property
    def outbox(self) -> Path:
        """What is being published, one folder a revision; emptied when it is."""
        return self.root / "outbox"

    @property
    def backups(self) -> Path:
        """Copies of the catalog, one before each migration."""
        return self.root / "backups"

    @property
    def quarantine(self) -> Path:
        """Artifacts that a check found changed, each under its digest and its inode; made when it is needed."""
        return self.root / "quarantine"

    @property
    def hparams(self) -> Path:
        """A person's own settings, a file for each model."""
        return self.root / "hparams"

    def preset(self, model: str) -> Path:
        """Where a person's own settings for a model are saved."""
        return self.hparams / f"{model}.json"

    def prepare(self) -> None:
        """Create what is missing (0700) and refuse what others could write to.

        Raises InputError: the root is a file, cannot be made, or it, a folder in it or the catalog belongs to
        another user or is group/world writable. The last two because whoever can write here can have this user
        load weights of theirs.
        """
        inside = (self.artifacts, self.models, self.logs, self.locks, self.backups, self.hparams)
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            _private_folder(self.root)
            _refuse_others(self.root)
            made = [_private_folder(folder) for folder in inside]
            for folder in inside:
                _refuse_others(folder)
            if self.catalog.exists():
                _refuse_others(self.catalog)
            if any(made):
                sync_folder(self.root)
        except OSError as error:
            raise InputError(
                f"{self.root} cannot be used as the home folder ({error.strerror or error}): "
                "make it writable, or set RETCON_HOME to another folder."
            ) from error


def _refuse_others(path: Path) -> None:
    """Raise InputError if somebody else owns or can write to what lies here."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise InputError(
            f"{path} belongs to another user (uid {found.st_uid}, this is uid {os.geteuid()}): "
            "set RETCON_HOME to a folder of your own."
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(
            f"{path} can be written by other users (mode {stat.S_IMODE(found.st_mode):04o}): "
            f"run `chmod {700 if stat.S_ISDIR(found.st_mode) else 600} {path}`, or set RETCON_HOME to another folder."
        )


def _private_folder(folder: Path) -> bool:
    """Make one folder with 0700 whatever the umask; False if it was there, and keeps the mode its user gave it."""
    if folder.is_dir():
        return False
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.is_dir():  # another process made it in between
            return False
        raise
    folder.chmod(0o700)
    return True


_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs", "fuse.sshfs"}


def network_filesystem(path: Path) -> str | None:
    """The type of the network filesystem that `path` lies on; None on a local one, or if unknown.

    SQLite's WAL shares memory between processes of ONE host and flock may silently do nothing there, so two
    hosts on one catalog would damage it. `retcon doctor` warns with this.
    """
    kind = filesystem(path)
    return kind if kind in _NETWORK else None


def filesystem(path: Path) -> str | None:
    """The type of the filesystem that `path` lies on, as the kernel names it; None if that is unknown."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", ""
    resolved = path.resolve()
    for line in mounts:
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if resolved.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, type_
    return kind or None
