"""Keep jobs alive after logout on machines where systemd kills a user's processes."""

import configparser
import getpass
import os
import shutil
from pathlib import Path

SYSTEMD_CONFIG = Path("/etc/systemd")


def build_scope_command() -> list[str]:
    """Words to put before a command so that it survives logout: a scope of the user's systemd, or nothing."""
    if not (_kills_at_logout() and _has_user_systemd()):
        return []
    return ["systemd-run", "--user", "--scope", "--quiet", "--collect"]


def find_logout_warning() -> str | None:
    """The warning of `retcon doctor` if jobs would end at logout."""
    if not _kills_at_logout():
        return None
    if not _has_user_systemd():
        return (
            "systemd kills your processes at logout (KillUserProcesses=yes), and you have no systemd user instance "
            "that could keep jobs alive: run `loginctl enable-linger`, or ask the administrator to run it"
        )
    if not Path("/var/lib/systemd/linger", getpass.getuser()).exists():
        return (
            "systemd kills your processes at logout (KillUserProcesses=yes): run `loginctl enable-linger` once, so "
            "that jobs, which run in scopes of your systemd user instance, continue"
        )
    return None


def _kills_at_logout() -> bool:
    """Whether logind kills a user's processes at logout. Debian, Ubuntu and Fedora disable that by default."""
    value = "no"
    for path in (SYSTEMD_CONFIG / "logind.conf", *sorted((SYSTEMD_CONFIG / "logind.conf.d").glob("*.conf"))):
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            parser.read(path)
            value = parser.get("Login", "KillUserProcesses", fallback=value)
        except (configparser.Error, OSError, UnicodeError):
            continue
    return value.strip().lower() in ("yes", "true", "1", "on")


def _has_user_systemd() -> bool:
    """Whether this user has a systemd instance and the program that starts scopes in it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return bool(runtime and (Path(runtime) / "systemd").is_dir() and shutil.which("systemd-run"))
