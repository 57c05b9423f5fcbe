"""`retcon doctor`: a report on this machine and the catalog for a bug report, without secrets."""

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import click
import psutil

from ....engine.jobs import sessions
from ....engine.jobs.devices import list_devices
from ....engine.jobs.locks import device_lock_path, is_locked, shared_lock_folder
from ....store.catalog.catalog import Catalog
from ....store.catalog.connection import HEAD
from ....store.errors import CatalogError, InputError
from ....store.home import Home, filesystem, network_filesystem
from ....store.home import home as user_home
from ....store.maintenance.health import Health, read_health, wal_is_safe
from ...hub_token import token_is_set
from ...presentation.format import format_size
from ...presentation.text import sanitize
from .. import environment
from ..options import json_option
from ..output import print_fields, print_json

_LITTLE_SPACE = 2_000_000_000
# Filesystems whose files are lost with the container or at reboot.
_TEMPORARY = {
    "overlay": "the container's own layer and lost with the container",
    "tmpfs": "tmpfs and lost at reboot",
    "ramfs": "ramfs, so it is lost at reboot",
}


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Print a report for a bug report: versions, machine, terminal, devices, home, catalog, hub. It has no secrets.

    Exits with 1 if the catalog cannot be used.
    """
    home = Home(user_home())
    broken = _open(home)
    status = None if broken and not home.catalog.is_file() else _health(home)
    report = {
        "versions": environment.read_versions(),
        "machine": environment.read_system() | _memory(),
        "terminal": environment.read_terminal(),
        "devices": {
            name: "busy" if is_locked(device_lock_path(home, name)) else "free" for name in list_devices()
        }
        | {f"gpu {number}": gpu for number, gpu in enumerate(environment.list_gpus())},
        "home": _home(home.root),
        "catalog": _catalog(status),
        "jobs": status.jobs if status else {},
        "hub": {"token": "set" if token_is_set() else "none"},
        "environment": {"set": environment.list_variables()},
    }
    problems = ([broken] if broken else []) + [
        f"the catalog is corrupt ({line}): restore a backup" for line in (status.problems if status else ())
    ]
    warnings = [*problems, *_warnings(home)]
    # The report does not contain the user's name.
    warnings = [line.replace(str(home.root), environment.hide_user(home.root)) for line in warnings]
    if as_json:
        print_json(report | {"warnings": warnings})
    else:
        _print(report, warnings)
    if problems:
        ctx.exit(1)


def _print(report: dict[str, dict[str, Any]], warnings: list[str]) -> None:
    lines = [
        (name if section == "versions" else f"{section}: {name}", value)
        for section, fields in report.items()
        for name, value in (fields or {"all": None}).items()
    ]
    print_fields([(name, ", ".join(value) if isinstance(value, list) else value) for name, value in lines])
    for warning in warnings:
        click.echo(f"! {sanitize(warning)}")


def _open(home: Home) -> str | None:
    """Open the catalog like any command, which creates or migrates it; returns the error if that fails."""
    try:
        Catalog.open(home).close()
    except (CatalogError, InputError, OSError, sqlite3.Error) as error:
        return str(error)
    return None


def _health(home: Home) -> Health | None:
    try:
        return read_health(home.catalog)
    except (OSError, sqlite3.Error):
        return None  # _open has returned the error


def _memory() -> dict[str, str]:
    memory = psutil.virtual_memory()
    return {"memory": f"{format_size(memory.available)} free of {format_size(memory.total)}"}


def _home(root: Path) -> dict[str, Any]:
    try:
        disk, mode = shutil.disk_usage(root), root.stat().st_mode & 0o777
    except OSError as error:
        return {"path": environment.hide_user(root), "error": error.strerror}
    return {
        "path": environment.hide_user(root),
        "disk": f"{format_size(disk.free)} free of {format_size(disk.total)}",
        "filesystem": filesystem(root) or "unknown",
        "writable": os.access(root, os.W_OK),
        "mode": f"{mode:04o}",
    }


def _catalog(status: Health | None) -> dict[str, Any]:
    if status is None:
        return {"state": "cannot be read"}
    return {
        "version": f"{status.version or 'none'} (this version of retcon: {HEAD})",
        "size": format_size(status.size),
        "rows": ", ".join(f"{name} {count}" for name, count in status.rows.items() if count) or "none",
        "quick check": "; ".join(status.problems) or "ok",
    }


def _warnings(home: Home) -> list[str]:
    root = home.root
    warnings = []
    if not wal_is_safe():
        warnings.append(
            f"SQLite {sqlite3.sqlite_version} has a rare WAL corruption that 3.51.3 (3.50.7, 3.44.6) fixed; "
            "run `retcon catalog backup DIR` regularly"
        )
    if any(name.startswith("cuda") for name in list_devices()) and not environment.torch_has_gpu_code():
        warnings.append(
            "this machine has a GPU, but the installed torch is a CPU build: install a build for the GPU"
        )
    if not environment.locale_is_utf8():
        warnings.append(
            f"the locale {environment.read_locale()} is not UTF-8: bars and heat maps can appear as ? or _; "
            "export LC_ALL=C.UTF-8, and do so before tmux starts"
        )
    if root.is_dir():
        warnings += _warnings_of_disk(root)
    if warning := sessions.find_logout_warning():
        warnings.append(warning)
    if device_lock_path(home, "cpu").parent == root / "locks":
        warnings.append(
            f"jobs of other users cannot see which devices are busy: {shared_lock_folder()} is not a shared lock "
            "folder; set RETCON_LOCKS to a folder that all users can write to (mode 1777)"
        )
    return warnings


def _warnings_of_disk(root: Path) -> list[str]:
    warnings = []
    if kind := network_filesystem(root):
        warnings.append(
            f"{root} is on {kind}: file locks and the WAL are not safe there; set RETCON_HOME to a local disk"
        )
    if temporary := _TEMPORARY.get(filesystem(root) or ""):
        warnings.append(f"{root} is on {temporary}. Set RETCON_HOME to a persistent disk.")
    if root.stat().st_mode & 0o077:
        warnings.append(f"other users of this machine can read {root}; run chmod 700 {root}")
    if (free := shutil.disk_usage(root).free) < _LITTLE_SPACE:
        warnings.append(f"only {format_size(free)} of disk space are free in {root}")
    return warnings
