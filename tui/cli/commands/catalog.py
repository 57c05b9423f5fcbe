"""`retcon catalog`: check, back up, restore and clean the catalog."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from sqlmodel import select

from ....engine.jobs.reap import reap
from ....engine.jobs.specs import VerifySpec
from ....store.catalog.artifacts import ArtifactStore
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Model
from ....store.errors import InputError
from ....store.exchange import bundle as bundles
from ....store.home import Home, home
from ....store.maintenance import backup as backups
from ....store.maintenance.gc import GRACE_SECONDS, Unreferenced, collect
from ....store.maintenance.verify import CheckResult, Damage
from ....store.maintenance.verify import check as check_all
from ...presentation.format import format_size, with_progress
from ...presentation.text import sanitize
from ..follow import follow, submit
from ..options import json_option, new_group, open_catalog
from ..output import narrate, print_json, print_table

_PATH = click.Path(path_type=Path)
_HOUR = 3600.0

catalog = new_group("catalog")


@catalog.command()
@click.option(
    "--repair-from", "backup", type=_PATH,
    help="Replace corrupt artifacts with copies from this backup (see `retcon catalog backup`).",
)  # fmt: skip
@json_option
def check(backup: Path | None, as_json: bool) -> None:
    """Hash every artifact and check the database. Exits with 1 if something is corrupt.

    Moves corrupt files to the quarantine folder of the home, so that no job uses them, and lists the rows that refer to
    them.
    """
    if backup is not None and not (backup / backups.INFO_FILE).is_file():
        raise InputError(f"{backup} is not a backup of a catalog: it contains no {backups.INFO_FILE}.")
    store = None if backup is None else ArtifactStore(backup / "artifacts")
    checked = with_progress(
        "hashing artifacts", lambda show: check_all(open_catalog(), show, repair_from=store)
    )
    if as_json:
        print_json(_checked_record(checked))
    else:
        _print_check(checked)
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


def _print_check(checked: CheckResult) -> None:
    for sentence in checked.database:
        click.echo(sanitize(sentence))
    for damage in checked.damages:
        click.echo(sanitize(damage.sentence))
        for one in damage.affects:
            click.echo(f"    {sanitize(one)}")
    if checked.is_sound:
        click.echo(
            f"No corruption in {checked.artifacts} artifacts ({format_size(checked.bytes)}) and the database."
        )
    elif any(one.referenced_by and not one.is_repaired for one in checked.damages):
        narrate("Repair from a backup: retcon catalog check --repair-from BACKUP")


@catalog.command()
@click.argument("target", metavar="DIR|FILE.db", type=_PATH)
@json_option
def backup(target: Path, as_json: bool) -> None:
    """Copy the catalog to DIR and verify the copy: database, artifacts, settings and converted weights.

    Jobs can continue meanwhile. A second backup to the same DIR copies only new files. If the name ends in .db, only
    the database is copied. Models outside the home (the hub's cache, your folders) are not copied.
    """
    opened = open_catalog()
    if target.suffix == ".db":
        backups.backup_database(opened, target)
        print_json({"backup": str(target.absolute()), "database_only": True}) if as_json else narrate(
            f"Wrote the database to {target}, without the artifacts."
        )
        return
    result = with_progress("copying", lambda show: backups.back_up(opened, target, show))
    if as_json:
        print_json({"backup": str(target.absolute()), "database_only": False} | asdict(result))
    else:
        narrate(
            f"Backed up {opened.home.root} to {target}: {result.artifacts} artifacts "
            f"({format_size(result.bytes)}) and the database, all verified. Restore it: retcon catalog restore {target}"
        )
    if result.corrupt:
        narrate(f"Corrupt and not copied: {', '.join(result.corrupt)}. See: retcon catalog check")
        raise click.exceptions.Exit(1)


@catalog.command()
@click.argument("source", metavar="BACKUP", type=_PATH)
@json_option
def restore(source: Path, as_json: bool) -> None:
    """Restore a backup to RETCON_HOME, which must not contain a catalog. Move a corrupt catalog away first."""
    into = Home(home())
    result = with_progress("copying", lambda show: backups.restore(source, into, show))
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
        print_json(record | asdict(result))
    else:
        narrate(
            f"Restored {into.root} from {source}: {result.artifacts} artifacts "
            f"({format_size(result.bytes)}), all verified."
        )
    for model in missing:
        narrate(f"The weights of {sanitize(model.name)} are missing. Copy them to {sanitize(model.path)}.")
    if result.corrupt:
        narrate(f"The backup lacks {', '.join(result.corrupt)}. See: retcon catalog check")
        raise click.exceptions.Exit(1)


@catalog.command()
@click.option("--delete", is_flag=True, help="Delete the files. Without this option they are only listed.")
@click.option(
    "--grace", type=click.FloatRange(min=0), default=GRACE_SECONDS / _HOUR, show_default=True, metavar="HOURS",
    help="Keep files that changed within this many hours.",
)  # fmt: skip
@json_option
def gc(delete: bool, grace: float, as_json: bool) -> None:
    """List or delete unreferenced files: artifacts without a row, and remains of jobs, exports and killed writers.

    Files that a row or an active job refers to are always kept. A failed or cancelled job keeps its checkpoint until
    `retcon job remove`.
    """
    opened = open_catalog()
    reap(opened)
    files = collect(opened, grace=grace * _HOUR, delete=delete)
    total = sum(one.bytes for one in files)
    if as_json:
        print_json(
            {
                "deleted": delete,
                "bytes": total,
                "files": [asdict(one) | {"path": str(one.path)} for one in files],
            }
        )
        return
    print_table(
        ("kind", "size", "path", "reason"),
        ((one.kind, format_size(one.bytes), _relative_path(opened, one), one.reason) for one in files),
        "No unreferenced files.",
        cut="path",
    )
    if files:
        done = (
            f"Freed {format_size(total)}."
            if delete
            else f"{format_size(total)} can be freed: retcon catalog gc --delete"
        )
        narrate(done)


def _relative_path(opened: Catalog, file: Unreferenced) -> str:
    """The path relative to the home if it is inside it."""
    inside = file.path.is_relative_to(opened.home.root)
    return str(file.path.relative_to(opened.home.root) if inside else file.path)


@catalog.command()
@click.argument("model")
@click.argument("file", type=_PATH)
@click.option("--no-covariances", is_flag=True, help="Omit the covariances, the largest part.")
@json_option
def export(model: str, file: Path, no_covariances: bool, as_json: bool) -> None:
    """Write MODEL's history to FILE: every revision with its delta, covariances, traces, sweeps and evaluations.

    FILE contains the source and fingerprint of the base, but not its weights.
    """
    opened = open_catalog()
    result = with_progress(
        "writing",
        lambda show: bundles.export_history(opened, model, file, show, covariances=not no_covariances),
    )
    if as_json:
        print_json({"model": model, "file": str(file.absolute())} | asdict(result))
    else:
        narrate(
            f"Wrote {file} ({format_size(result.bytes)}): {_counts(result.rows)}, {result.artifacts} artifacts."
        )


@catalog.command("import")
@click.argument("file", type=_PATH)
@click.option(
    "--into", metavar="MODEL", help="A model with the same base. Default: the model of the same name."
)
@click.option("--no-verify", is_flag=True, help="Do not compute and hash the weights of the imported head.")
@click.option(
    "--device", help="Device that computes them: cpu, cuda:0, ... Default: the first GPU, else the CPU."
)
@json_option
def import_(file: Path, into: str | None, no_verify: bool, device: str | None, as_json: bool) -> None:
    """Add the history in FILE to the model with the same base, and verify the weights of its head.

    Rows that exist already are kept, so a second import adds nothing. The head moves only if the model had no edits.
    """
    opened = open_catalog()
    result = with_progress("verifying", lambda show: bundles.import_history(opened, file, into, show))
    existing = {name: count for name, count in result.existing.items() if count}
    narrate(f"Added to {result.model}: {_counts(result.added)}.")
    if existing:
        narrate(f"Existed already: {_counts(existing)}.")
    if result.head == result.source_head:
        narrate(f"The head of {result.model} is {result.source_head}.")
    else:
        narrate(
            f"The head of {result.model} is still {result.head}; the imported head is {result.source_head}. "
            f"Move to it: retcon rollback {result.model} {result.source_head}"
        )
    record = asdict(result) | {"verified": False}
    if not no_verify:
        job = follow(
            opened, submit(opened, VerifySpec(model=result.model, revision=result.source_head), device)
        )
        record["verified"] = True
        narrate(
            f"Verified {result.source_head}: all {job.result['tensors']} tensors have the hashes of the exported model."
        )
    if as_json:
        print_json(record)


def _counts(rows: dict[str, int]) -> str:
    """`2 revisions, 1 trace`, without the kinds that have no rows."""
    words = {"fact_set": "set of facts", "covariance": "covariance"}
    parts = []
    for name, count in rows.items():
        word = words.get(name, name)
        many = word.replace("set", "sets", 1) if name == "fact_set" else f"{word}s"
        if count:
            parts.append(f"{count} {word if count == 1 else many}")
    return sanitize(", ".join(parts)) or "nothing"
