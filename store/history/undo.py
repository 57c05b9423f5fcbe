"""Undo and redo of what moved a model's head, from the record of its moves: also for what another program did.

Nothing is deleted by either: they move the head, and write that down like every other move.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from ..catalog.tables import HeadMove, Model, Revision
from ..errors import InputError
from . import history


@dataclass(frozen=True)
class Steps:
    """What can be undone and redone, the next one last."""

    undo: tuple[HeadMove, ...]
    redo: tuple[HeadMove, ...]


def steps_of(moves: Sequence[HeadMove]) -> Steps:
    """Play the record through: an undo takes back the last move that counts, any other move forgets what was undone."""
    done: list[HeadMove] = []
    undone: list[HeadMove] = []
    for move in moves:
        if move.reason == "undo" and done:
            undone.append(done.pop())
        elif move.reason == "redo" and undone:
            done.append(undone.pop())
        elif move.reason not in ("add", "undo", "redo"):
            done.append(move)
            undone.clear()
    return Steps(tuple(done), tuple(undone))


def next_undo(session: Session, model: Model) -> HeadMove:
    """The move that `undo` takes back. Raises InputError if there is none."""
    found = steps_of(history.list_head_moves(session, model)).undo
    if not found:
        raise InputError(
            f"there is nothing to undo in the history of {model.name}: its head is where it began."
        )
    return found[-1]


def next_redo(session: Session, model: Model) -> HeadMove:
    """The move that `redo` makes again. Raises InputError if there is none."""
    found = steps_of(history.list_head_moves(session, model)).redo
    if not found:
        raise InputError(f"there is nothing to redo in the history of {model.name}: nothing was undone last.")
    return found[-1]


def undo(session: Session, model: Model) -> Revision:
    """Move the head to where it was before its last move. Returns the revision it is at. Flushes; raises InputError."""
    return _go(session, model, next_undo(session, model).from_revision, "undo")


def redo(session: Session, model: Model) -> Revision:
    """Make the move again that was undone last. Returns the revision the head is at. Flushes; raises InputError."""
    return _go(session, model, next_redo(session, model).to_revision, "redo")


def _go(session: Session, model: Model, to: str | None, reason: str) -> Revision:
    if to is None:
        raise InputError(f"the head of {model.name} was nowhere before that.")
    revision = history.find_revision(session, model, to)
    history.move_head(session, model, revision, reason)
    return revision
