"""`retcon history`, `diff`, `rollback`, `undo`, `redo`, `revert`: the revisions of a model, and moving between them."""

from collections.abc import Sequence

import click

from ....engine.jobs.listing import build_job_record
from ....engine.jobs.specs import RevertSpec, VerifySpec
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Model, Revision
from ....store.errors import InputError
from ....store.history import history as revisions
from ....store.history import undo as moves
from ....store.history.lineage import find_reverted
from ...presentation.text import sanitize
from ..follow import follow, run, submit
from ..options import job_options, json_option, open_catalog
from ..output import narrate, print_json, print_table
from ..records import revision_record

_no_verify = click.option(
    "--no-verify", is_flag=True, help="Move the head only; do not make the weights anew and hash them."
)


@click.command()
@click.argument("model")
@json_option
def history(model: str, as_json: bool) -> None:
    """The revisions of MODEL, oldest first; the head is marked."""
    with open_catalog().read() as session:
        found = revisions.find_model(session, model)
        all_of_it = revisions.list_revisions(session, found)
        out = find_reverted(revisions.load_path(session, found.head or all_of_it[0].id))
    if as_json:
        records = [revision_record(revision) for revision in all_of_it]
        print_json({"model": model, "head": found.head, "revisions": records})
        return
    print_table(
        ("", "revision", "parent", "kind", "method", "layers", "message", "created"),
        (_line(revision, found, out) for revision in all_of_it),
        "No revisions.",
        cut="message",
    )


def _line(revision: Revision, model: Model, out: set[str]) -> tuple:
    mark = "head" if revision.id == model.head else "out" if revision.id in out else ""
    layers = ",".join(map(str, revision.hparams.get("layers", [])))
    return (
        mark,
        revision.id,
        revision.parent,
        revision.kind,
        revision.method,
        layers,
        revision.message,
        revision.created,
    )


@click.command()
@click.argument("a", metavar="MODEL@A")
@click.argument("b", metavar="MODEL@B")
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """What revision A has that B has not, and the other way round."""
    (name_a, rev_a), (name_b, rev_b) = revisions.parse_target(a), revisions.parse_target(b)
    if name_a != name_b:
        raise InputError(f"{name_a} and {name_b} are two models; diff compares two revisions of one")
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
            "only_a": [revision_record(edit) for edit in only_a],
            "only_b": [revision_record(edit) for edit in only_b],
        }
        print_json(record)
        return
    click.echo(
        f"{name_a}: {one.id} and {other.id} have {'the same weights, to the bit' if same else 'different weights'}"
    )
    for revision, edits in ((one, only_a), (other, only_b)):
        if edits:
            click.echo(f"\nonly {revision.id} has")
            _print_edits(edits)


def _print_edits(edits: Sequence[Revision]) -> None:
    rows = []
    for edit in edits:
        for request in edit.requests:
            sizes = edit.statistics.get("delta", {})
            size = ", ".join(f"{name} {100 * one['relative']:.2g} %" for name, one in sizes.items())
            rows.append(
                (edit.id, request["subject"], request.get("target_true"), request["target_new"], size)
            )
    print_table(
        ("edit", "subject", "was", "now", "change of the matrix"), rows, "", cut="change of the matrix"
    )


@click.command()
@click.argument("model")
@click.argument("revision", metavar="REV")
@_no_verify
@job_options
def rollback(
    model: str, revision: str, no_verify: bool, as_json: bool, detach: bool, device: str | None
) -> None:
    """Move MODEL's head back to REV (base, head~1, an id) and prove that its weights are the same bits as ever.

    Nothing is lost: later revisions stay in the history, and rolling forward is a rollback to one of them.
    """
    catalog = open_catalog()
    with catalog.write(durable=True) as session:
        found = revisions.find_model(session, model)
        target = revisions.find_revision(session, found, revision)
        before = found.head
        if target.id != before:
            revisions.move_head(session, found, target, "rollback")
    _tell_move(catalog, found, before, target, device, no_verify=no_verify, as_json=as_json, detach=detach)


@click.command()
@click.argument("model")
@_no_verify
@job_options
def undo(model: str, no_verify: bool, as_json: bool, detach: bool, device: str | None) -> None:
    """Take back the last move of MODEL's head (an edit, a rollback, a revert), and prove the weights.

    Nothing is deleted; `retcon redo` makes the move again. What the app or another terminal did counts as well.
    """
    catalog = open_catalog()
    with catalog.write(durable=True) as session:
        found = revisions.find_model(session, model)
        before, target = found.head, moves.undo(session, found)
    _tell_move(catalog, found, before, target, device, no_verify=no_verify, as_json=as_json, detach=detach)


@click.command()
@click.argument("model")
@_no_verify
@job_options
def redo(model: str, no_verify: bool, as_json: bool, detach: bool, device: str | None) -> None:
    """Make the move of MODEL's head again that was undone last, and prove the weights."""
    catalog = open_catalog()
    with catalog.write(durable=True) as session:
        found = revisions.find_model(session, model)
        before, target = found.head, moves.redo(session, found)
    _tell_move(catalog, found, before, target, device, no_verify=no_verify, as_json=as_json, detach=detach)


def _tell_move(
    catalog: Catalog, found: Model, before: str | None, target: Revision, device: str | None, *, no_verify: bool,
    as_json: bool, detach: bool,
) -> None:  # fmt: skip
    """After the head was moved: say so, and prove the weights unless nobody wants it."""
    model = found.name
    narrate(f"The head of {model} is {target.id} ({sanitize(target.message)}), it was {before}.")
    record = {
        "model": model,
        "head": target.id,
        "was": before,
        "fingerprint": target.fingerprint,
        "verified": False,
    }
    spec = VerifySpec(model, target.id)
    if detach and not no_verify:
        job = submit(catalog, spec, device)
        print_json(record | {"job": build_job_record(job)}) if as_json else click.echo(job.id)
        return
    if not no_verify:
        job = follow(catalog, submit(catalog, spec, device))
        record |= {"verified": True, "tensors": job.result["tensors"]}
        same = target.fingerprint == found.fingerprint
        which = "the base's own bits" if same else "the bits that the revision had when it was made"
        narrate(
            f"Verified: all {job.result['tensors']} tensors hash to {which}, fingerprint {target.fingerprint[:16]}."
        )
    if as_json:
        print_json(record)


@click.command()
@click.argument("model")
@click.argument("revision", metavar="REV")
@click.option("-m", "--message", default="", help="Why.")
@job_options
def revert(model: str, revision: str, message: str, as_json: bool, detach: bool, device: str | None) -> None:
    """Take edit REV out of MODEL's head, wherever it stands, and keep the edits after it."""
    catalog = open_catalog()
    with catalog.read() as session:
        found = revisions.find_model(session, model)
        target = revisions.find_revision(session, found, revision)
        way = revisions.load_path(session, found.head or "")
        revisions.check_revert(way, target)
        if later := revisions.dependent_edits(way, target):
            narrate(
                f"Later edits about the same subject, made with it there: {len(later)}. `retcon eval run {model}` asks "
                "what still holds."
            )
    spec = RevertSpec(model, target.id, message)
    job = run(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        made = revisions.find_revision(session, found, job.result["revision"])
    if as_json:
        print_json(revision_record(made))
    else:
        narrate(f"Revision {made.id}: {sanitize(made.message)}")
