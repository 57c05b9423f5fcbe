"""`retcon catalog`: is all of it sound, where is a copy, and what does nothing need any more."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from sqlmodel import select

from ....engine.jobs.reap import reap
from ....store.catalog.artifacts import ArtifactStore
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Model
from ....store.errors import InputError
from ....store.home import Home, home
from ....store.maintenance import backup as backups
from ....store.maintenance.gc import GRACE_SECONDS, Unreferenced, collect
from ....store.maintenance.verify import CheckResult, Damage
from ....store.maintenance.verify import check as check_all
from ...presentation.format import format_size, with_progress
from ...presentation.text import sanitize
from ..options import json_option, open_catalog
from ..output import narrate, print_json, print_table
from .catalog_bundles import export, import_

_PLACE = click.Path(path_type=Path)
_HOUR = 3600.0


@click.group()
def catalog() -> None:
    """Check, back up, restore, clean up; a model's history as one file."""


@catalog.command()
@click.option(
    "--mend-from",
    "backup",
    type=_PLACE,
    help="A backup (see `retcon catalog backup`) from which to put back what is hurt.",
)
@json_option
def check(backup: Path | None, as_json: bool) -> None:
    """Hash every artifact and check the database; exit code 1 if something is hurt.

    A hurt file is moved to the home's quarantine, so that nothing is computed from it, and what needs it is named.
    """
    if backup is not None and not (backup / backups.NOTE).is_file():
        raise InputError(f"{backup} is no backup of a catalog: there is no {backups.NOTE} in it.")
    store = None if backup is None else ArtifactStore(backup / "artifacts")
    checked = with_progress(
        "hashing artifacts", lambda show: check_all(open_catalog(), show, repair_from=store)
    )
    if as_json:
        print_json(_checked_record(checked))
    else:
        _tell(checked)
    if not checked.is_sound:
        raise click.exceptions.Exit(1)


def _checked_record(checked: CheckResult) -> dict[str, Any]:
    return {
        "sound": checked.is_sound,
        "artifacts": checked.artifacts,
        "bytes": checked.bytes,
        "database": checked.database,
        "corrupt": [_damage_record(one) for one in checked.damages],
    }


def _damage_record(damage: Damage) -> dict[str, Any]:
    return {
        "artifact": damage.artifact.sha256,
        "path": str(damage.artifact.path),
        "problem": damage.artifact.problem,
        "referenced_by": damage.referenced_by,
        "affects": damage.affects,
        "quarantined": None if damage.quarantined is None else str(damage.quarantined),
        "repaired": damage.is_repaired,
    }


def _tell(checked: CheckResult) -> None:
    for sentence in checked.database:
        click.echo(sanitize(sentence))
    for damage in checked.damages:
        click.echo(sanitize(damage.sentence))
        for one in damage.affects:
            click.echo(f"    {sanitize(one)}")
    if checked.is_sound:
        click.echo(f"Sound: {checked.artifacts} artifacts ({format_size(checked.bytes)}) and the database.")
    elif any(one.referenced_by and not one.is_repaired for one in checked.damages):
        narrate("Put back what a backup has with: retcon catalog check --mend-from BACKUP")


@catalog.command()
@click.argument("target", metavar="DIR|FILE.db", type=_PLACE)
@json_option
def backup(target: Path, as_json: bool) -> None:
    """Copy the catalog to DIR while jobs go on: database, artifacts, settings and converted weights, each verified.

    A second backup to the same DIR copies only what is new. A name that ends in .db gets the database alone. The models
    that lie elsewhere (the hub's cache, your folders) are not copied.
    """
    opened = open_catalog()
    if target.suffix == ".db":
        backups.backup_database(opened, target)
        print_json({"backup": str(target.absolute()), "database_only": True}) if as_json else narrate(
            f"Wrote the database to {target}; the artifacts are not in it."
        )
        return
    made = with_progress("copying", lambda show: backups.back_up(opened, target, show))
    if as_json:
        print_json({"backup": str(target.absolute()), "database_only": False} | asdict(made))
    else:
        narrate(
            f"Backed up {opened.home.root} to {target}: {made.artifacts} artifacts ({format_size(made.bytes)}) and the "
            f"database, all verified. To have it back: retcon catalog restore {target}"
        )
    if made.corrupt:
        narrate(f"Not in it, for they are hurt: {', '.join(made.corrupt)}. See: retcon catalog check")
        raise click.exceptions.Exit(1)


@catalog.command()
@click.argument("source", metavar="BACKUP", type=_PLACE)
@json_option
def restore(source: Path, as_json: bool) -> None:
    """Put a backup back as the catalog of RETCON_HOME, which must not have one: move a broken one away first."""
    into = Home(home())
    made = with_progress("copying", lambda show: backups.restore(source, into, show))
    opened = open_catalog()
    interrupted = reap(opened)
    with opened.read() as session:
        missing = [one for one in session.exec(select(Model)) if not Path(one.path).is_dir()]
    if as_json:
        record = {
            "home": str(into.root),
            "interrupted": interrupted,
            "without_weights": [one.name for one in missing],
        }
        print_json(record | asdict(made))
    else:
        narrate(
            f"Restored {into.root} from {source}: {made.artifacts} artifacts ({format_size(made.bytes)}), all verified."
        )
    for model in missing:
        narrate(
            f"The weights of {sanitize(model.name)} are not at {sanitize(model.path)}: put them there again."
        )
    if made.corrupt:
        narrate(f"The backup lacks {', '.join(made.corrupt)}. See: retcon catalog check")
        raise click.exceptions.Exit(1)


@catalog.command()
@click.option("--delete", is_flag=True, help="Remove it; without this it is only listed.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE_SECONDS / _HOUR,
    show_default=True,
    metavar="HOURS",
    help="Leave what was touched within so many hours.",
)
@json_option
def gc(delete: bool, grace: float, as_json: bool) -> None:
    """What nothing needs any more: artifacts that no row names, and what jobs, exports and killed writers left.

    What a row or a living job needs always stays, whatever the grace. A job that failed or was cancelled keeps its
    checkpoint until it is removed (`retcon job remove`).
    """
    opened = open_catalog()
    reap(opened)
    found = collect(opened, grace=grace * _HOUR, delete=delete)
    total = sum(one.bytes for one in found)
    if as_json:
        print_json({"deleted": delete, "bytes": total, "found": [_loose_record(one) for one in found]})
        return
    print_table(
        ("kind", "size", "path", "why"),
        ((one.kind, format_size(one.bytes), _short(opened, one), one.why) for one in found),
        "Nothing to free.",
        cut="path",
    )
    if found:
        done = (
            f"Freed {format_size(total)}."
            if delete
            else f"{format_size(total)} could be freed: retcon catalog gc --delete"
        )
        narrate(done)


def _loose_record(loose: Unreferenced) -> dict[str, Any]:
    return {"kind": loose.kind, "path": str(loose.path), "bytes": loose.bytes, "why": loose.why}


def _short(opened: Catalog, loose: Unreferenced) -> str:
    """A path in the home without the home's."""
    inside = loose.path.is_relative_to(opened.home.root)
    return str(loose.path.relative_to(opened.home.root) if inside else loose.path)


catalog.add_command(export)
catalog.add_command(import_)
