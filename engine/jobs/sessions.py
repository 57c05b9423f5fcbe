"""Where systemd ends a user's processes when the user logs out: how a job gets past that, and when it cannot."""

import configparser
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

_ETC = Path("/etc/systemd")


def surviving() -> list[str]:
    """What to put before a command so that it outlives the login: a scope of the user's own systemd, where needed."""
    return ["systemd-run", "--user", "--scope", "--quiet", "--collect"] if _kills() and _has_systemd() else []


def warning() -> str | None:
    """What `retcon doctor` says where jobs would not outlive the SSH connection."""
    if not _kills():
        return None
    if not _has_systemd():
        return (
            "systemd ends your processes when you log out (KillUserProcesses=yes) and you have no systemd of your "
            "own to keep jobs in: run `loginctl enable-linger`, or ask who runs this box to"
        )
    if not _lingers():
        return (
            "systemd ends your processes when you log out (KillUserProcesses=yes): run `loginctl enable-linger` "
            "once, so that jobs, which run in scopes of your own systemd, go on"
        )
    return None


def _kills() -> bool:
    """Whether logind is set to kill what a user leaves behind. Debian, Ubuntu and Fedora do not, unless told to."""
    value = "no"
    for path in _files(_ETC):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read(path)
            value = parser.get("Login", "KillUserProcesses", fallback=value)
        except (configparser.Error, OSError, UnicodeError):
            continue
    return value.strip().lower() in ("yes", "true", "1", "on")


def _files(etc: Path) -> Iterable[Path]:
    return [etc / "logind.conf", *sorted((etc / "logind.conf.d").glob("*.conf"))]


def _has_systemd() -> bool:
    """Whether this user has a systemd to ask, and the program that asks it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return bool(runtime and (Path(runtime) / "systemd").is_dir() and shutil.which("systemd-run"))


def _lingers() -> bool:
    import getpass

    return (Path("/var/lib/systemd/linger") / getpass.getuser()).exists()
