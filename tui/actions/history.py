"""Move the head of a model: roll back, undo, redo; and check whether an edit can be removed."""

from typing import Literal, NamedTuple

from ...engine.jobs.specs import RevertSpec, VerifySpec
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import HeadMove, Model, Revision
from ...store.history import history
from ...store.history import undo as head_record
from .damage import convert_read_errors

Step = Literal["undo", "redo"]


class MovedHead(NamedTuple):
    """A model whose head was moved: from `before` to `revision`."""

    model: Model
    before: str | None
    revision: Revision

    @property
    def verification(self) -> VerifySpec:
        """The job that computes the weights again and checks their fingerprint."""
        return VerifySpec(model=self.model.name, revision=self.revision.id)


def roll_back(catalog: Catalog, model: str, revision: str) -> MovedHead:
    """Move the head to a revision. The move is on the disk when this returns.

    Raises:
        NotFound: the model or the revision does not exist.
    """
    with catalog.write(durable=True) as session:
        row = history.find_model(session, model)
        target = history.find_revision(session, row, revision)
        before = row.head
        if target.id != before:
            history.move_head(session, row, target, "rollback")
    return MovedHead(row, before, target)


def step_head(catalog: Catalog, model: str, step: Step) -> MovedHead:
    """Undo the last move of the head, or redo the move that was undone last.

    Raises:
        InputError: there is nothing to undo or redo.
        NotFound: the model does not exist.
    """
    with catalog.write(durable=True) as session:
        row = history.find_model(session, model)
        before = row.head
        target = (head_record.undo if step == "undo" else head_record.redo)(session, row)
    return MovedHead(row, before, target)


def next_step(catalog: Catalog, model: str, step: Step) -> HeadMove:
    """The move that `step_head` would undo or redo.

    Raises:
        InputError: there is none.
        NotFound: the model does not exist.
        CatalogError: a row is damaged.
    """
    with convert_read_errors(f"the history of {model}"), catalog.read() as session:
        row = history.find_model(session, model)
        return (head_record.next_undo if step == "undo" else head_record.next_redo)(session, row)


def plan_revert(catalog: Catalog, model: str, revision: str, message: str = "") -> tuple[RevertSpec, int]:
    """Check that an edit can be removed from the head. Return the job, and the number of dependent later edits.

    Raises:
        InputError: the revision is the base, is not an ancestor of the head, or is removed already.
        NotFound: the model or the revision does not exist.
        CatalogError: a row is damaged.
    """
    with convert_read_errors(f"the history of {model}"), catalog.read() as session:
        row = history.find_model(session, model)
        target = history.find_revision(session, row, revision)
        ancestors = history.load_path(session, row.head or "")
        history.check_revert(ancestors, target)
        dependents = len(history.dependent_edits(ancestors, target))
    return RevertSpec(model=model, reverts=target.id, message=message), dependents
