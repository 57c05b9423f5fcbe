"""`retcon history`, `diff`, `rollback`, `undo`, `redo`, `revert`: list revisions and move the head."""

from collections.abc import Sequence
from typing import Any

import click

from ....engine.jobs.listing import build_job_record
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Model, Revision
from ....store.errors import InputError
from ....store.history import history as revisions
from ....store.history.lineage import find_reverted
from ...actions.history import MovedHead, plan_revert, roll_back, step_head
from ...presentation.text import sanitize
from ..follow import follow, run_job, submit
from ..options import JobOptions, job_options, json_option, message_option, open_catalog
from ..output import narrate, print_json, print_table
from ..records import to_record

_no_verify = click.option(
    "--no-verify", is_flag=True, help="Only move the head. Do not compute and hash the weights."
)


@click.command()
@click.argument("model")
@json_option
def history(model: str, as_json: bool) -> None:
    """List the revisions of MODEL, oldest first. The first column marks the head and the removed edits."""
    with open_catalog().read() as session:
        row = revisions.find_model(session, model)
        all_revisions = revisions.list_revisions(session, row)
        removed = find_reverted(revisions.load_path(session, row.head or all_revisions[0].id))
    if as_json:
        records = [to_record(revision) for revision in all_revisions]
        print_json({"model": model, "head": row.head, "revisions": records})
        return
    print_table(
        ("", "revision", "parent", "kind", "method", "layers", "message", "created"),
        (_row(revision, row, removed) for revision in all_revisions),
        "No revisions.",
        cut="message",
    )


def _row(revision: Revision, model: Model, removed: set[str]) -> tuple[Any, ...]:
    mark = "head" if revision.id == model.head else "removed" if revision.id in removed else ""
    layers = ",".join(map(str, revision.hparams.get("layers", [])))
    return (
        mark, revision.id, revision.parent, revision.kind, revision.method, layers, revision.message, revision.created,
    )  # fmt: skip


@click.command()
@click.argument("a", metavar="MODEL@A")
@click.argument("b", metavar="MODEL@B")
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """List the edits that only revision A has and those that only revision B has."""
    (name_a, rev_a), (name_b, rev_b) = revisions.parse_target(a), revisions.parse_target(b)
    if name_a != name_b:
        raise InputError(f"{name_a} and {name_b} are two models; diff compares two revisions of one model")
    with open_catalog().read() as session:
        model = revisions.find_model(session, name_a)
        one, other = (revisions.find_revision(session, model, rev) for rev in (rev_a, rev_b))
        edits_a, edits_b = (
            revisions.live_edits(revisions.load_path(session, rev.id)) for rev in (one, other)
        )
    ids_a, ids_b = {edit.id for edit in edits_a}, {edit.id for edit in edits_b}
    only_a = [edit for edit in edits_a if edit.id not in ids_b]
    only_b = [edit for edit in edits_b if edit.id not in ids_a]
    same = one.fingerprint == other.fingerprint
    if as_json:
        record = {"model": name_a, "a": one.id, "b": other.id, "same_weights": same}
        record |= {
            "only_a": [to_record(edit) for edit in only_a],
            "only_b": [to_record(edit) for edit in only_b],
        }
        print_json(record)
        return
    weights = "identical weights, bit for bit" if same else "different weights"
    click.echo(f"{name_a}: {one.id} and {other.id} have {weights}")
    for revision, edits in ((one, only_a), (other, only_b)):
        if edits:
            click.echo(f"\nonly in {revision.id}")
            _print_edits(edits)


def _print_edits(edits: Sequence[Revision]) -> None:
    rows = []
    for edit in edits:
        sizes = edit.statistics.get("delta", {})
        size = ", ".join(f"{name} {100 * one['relative']:.2g} %" for name, one in sizes.items())
        rows += [(edit.id, r["subject"], r.get("target_true"), r["target_new"], size) for r in edit.requests]
    columns = ("edit", "subject", "true target", "new target", "change of the matrix")
    print_table(columns, rows, "", cut="change of the matrix")


@click.command()
@click.argument("model")
@click.argument("revision", metavar="REV")
@_no_verify
@job_options
def rollback(model: str, revision: str, no_verify: bool, job_options: JobOptions) -> None:
    """Move MODEL's head to REV (base, head~1, an id) and verify that its weights have the same bits as before.

    Nothing is deleted. Later revisions stay in the history; roll back to one of them to return to it.
    """
    catalog = open_catalog()
    _verify(catalog, roll_back(catalog, model, revision), job_options, no_verify=no_verify)


@click.command()
@click.argument("model")
@_no_verify
@job_options
def undo(model: str, no_verify: bool, job_options: JobOptions) -> None:
    """Undo the last move of MODEL's head (an edit, a rollback, a revert) and verify the weights.

    Nothing is deleted: `retcon redo` repeats the move. Moves by the app or another terminal count too.
    """
    catalog = open_catalog()
    _verify(catalog, step_head(catalog, model, "undo"), job_options, no_verify=no_verify)


@click.command()
@click.argument("model")
@_no_verify
@job_options
def redo(model: str, no_verify: bool, job_options: JobOptions) -> None:
    """Repeat the move of MODEL's head that was undone last and verify the weights."""
    catalog = open_catalog()
    _verify(catalog, step_head(catalog, model, "redo"), job_options, no_verify=no_verify)


def _verify(catalog: Catalog, moved: MovedHead, options: JobOptions, *, no_verify: bool) -> None:
    """Print the new head, and verify its weights with a job unless `no_verify`."""
    model, before, target = moved
    narrate(f"The head of {model.name} is {target.id} ({sanitize(target.message)}); it was {before}.")
    record = {
        "model": model.name,
        "head": target.id,
        "previous_head": before,
        "fingerprint": target.fingerprint,
        "verified": False,
    }
    if not no_verify:
        job = submit(catalog, moved.verification, options.device)
        if options.detach:
            print_json(record | {"job": build_job_record(job)}) if options.as_json else click.echo(job.id)
            return
        job = follow(catalog, job)
        record |= {"verified": True, "tensors": job.result["tensors"]}
        same = target.fingerprint == model.fingerprint
        narrate(
            f"Verified: all {job.result['tensors']} tensors have the hashes of "
            f"{'the base' if same else 'this revision when it was created'}, "
            f"fingerprint {target.fingerprint[:16]}."
        )
    if options.as_json:
        print_json(record)


@click.command()
@click.argument("model")
@click.argument("revision", metavar="REV")
@message_option
@job_options
def revert(model: str, revision: str, message: str, job_options: JobOptions) -> None:
    """Remove edit REV from MODEL's head and keep the later edits."""
    catalog = open_catalog()
    spec, dependents = plan_revert(catalog, model, revision, message)
    if dependents:
        narrate(
            f"Later edits of the same subject that depend on this one: {dependents}. "
            f"Evaluate after reverting: retcon eval run {model}"
        )
    job = run_job(catalog, spec, job_options)
    with catalog.read() as session:
        added = revisions.find_revision(session, revisions.find_model(session, model), job.result["revision"])
    if job_options.as_json:
        print_json(to_record(added))
    else:
        narrate(f"Revision {added.id}: {sanitize(added.message)}")
