"""`retcon doctor`: what this box has, and what to mind: what one pastes into a report of a fault. No secrets in it."""

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
from ....store.maintenance.health import Health, health, wal_is_safe
from ...hub_token import token_is_set
from ...presentation.format import format_size
from ...presentation.text import sanitize
from .. import environment as box
from ..options import json_option
from ..output import print_fields, print_json

_LITTLE_SPACE = 2_000_000_000
# What lies there is gone with the container, or with the power.
_FLEETING = {"overlay": "the container's own layer", "tmpfs": "memory", "ramfs": "memory"}


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """What to paste into a report of a fault: versions, box, terminal, devices, home, catalog, hub. No secrets.

    Exits with 1 where the catalog cannot be used.
    """
    home = Home(user_home())
    broken = _open(home)
    found = None if broken and not home.catalog.is_file() else _health(home)
    report = {
        "versions": box.versions(),
        "box": box.system() | _memory(),
        "terminal": box.terminal(),
        "devices": {
            name: "busy" if is_locked(device_lock_path(home, name)) else "free" for name in list_devices()
        }
        | {f"gpu {number}": told for number, told in enumerate(box.gpus())},
        "home": _home(home.root),
        "catalog": _catalog(found),
        "jobs": found.jobs if found else {},
        "hub": {"token": "set" if token_is_set() else "none"},
        "environment": {"set": box.variables()},
    }
    problems = ([broken] if broken else []) + [
        f"the catalog is damaged ({line}): restore a backup" for line in (found.problems if found else ())
    ]
    warnings = [*problems, *_warnings(home)]
    # The user's name is nobody's business.
    warnings = [line.replace(str(home.root), box.without_user(home.root)) for line in warnings]
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
    """Open the catalog as any command would, made and migrated if need be; what is said where that fails."""
    try:
        Catalog.open(home).close()
    except (CatalogError, InputError, OSError, sqlite3.Error) as error:
        return str(error)
    return None


def _health(home: Home) -> Health | None:
    try:
        return health(home.catalog)
    except (OSError, sqlite3.Error):
        return None  # opening it has told why


def _memory() -> dict[str, str]:
    memory = psutil.virtual_memory()
    return {"memory": f"{format_size(memory.available)} free of {format_size(memory.total)}"}


def _home(root: Path) -> dict[str, Any]:
    try:
        disk, mode = shutil.disk_usage(root), root.stat().st_mode & 0o777
    except OSError as error:
        return {"path": box.without_user(root), "error": error.strerror}
    return {
        "path": box.without_user(root),
        "disk": f"{format_size(disk.free)} free of {format_size(disk.total)}",
        "filesystem": filesystem(root) or "unknown",
        "writable": os.access(root, os.W_OK),
        "mode": f"{mode:04o}",
    }


def _catalog(found: Health | None) -> dict[str, Any]:
    if found is None:
        return {"state": "cannot be read"}
    return {
        "version": f"{found.version or 'none'} (this program's is {HEAD})",
        "size": format_size(found.size),
        "rows": ", ".join(f"{name} {count}" for name, count in found.rows.items() if count) or "none",
        "quick check": "; ".join(found.problems) or "ok",
    }


def _warnings(home: Home) -> list[str]:
    root = home.root
    warnings = []
    if not wal_is_safe():
        warnings.append(
            f"SQLite {sqlite3.sqlite_version} has a rare WAL corruption that 3.51.3 mended (3.50.7 and 3.44.6 too); "
            "`retcon catalog backup DIR` now and then"
        )
    if any(name.startswith("cuda") for name in list_devices()) and not box.torch_has_gpu_code():
        warnings.append(
            "this box has a GPU, but the installed torch is built for the CPU alone: install another build"
        )
    if not box.speaks_utf8():
        warnings.append(
            f"the locale is {box.user_locale()}, not one of UTF-8: bars and heat maps may come out as ? or _; "
            "export LC_ALL=C.UTF-8, also before tmux starts"
        )
    if root.is_dir():
        warnings += _warnings_of_disk(root)
    if told := sessions.find_logout_warning():
        warnings.append(told)
    if device_lock_path(home, "cpu").parent == root / "locks":
        warnings.append(
            f"jobs of other users do not see which devices are taken: {shared_lock_folder()} holds no lock file "
            "for all; set RETCON_LOCKS to a folder that all may write to (mode 1777)"
        )
    return warnings


def _warnings_of_disk(root: Path) -> list[str]:
    warnings = []
    if kind := network_filesystem(root):
        warnings.append(
            f"{root} lies on {kind}: file locks and the WAL are not safe there; set RETCON_HOME to a local disk"
        )
    if fleeting := _FLEETING.get(filesystem(root) or ""):
        warnings.append(f"{root} lies in {fleeting} and goes with it: set RETCON_HOME to a disk that stays")
    if root.stat().st_mode & 0o077:
        warnings.append(f"other users of this box may look into {root}; run chmod 700 {root}")
    if (free := shutil.disk_usage(root).free) < _LITTLE_SPACE:
        warnings.append(f"only {format_size(free)} are free in {root}")
    return warnings
