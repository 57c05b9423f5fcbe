"""Undo and redo moves of a model's head, whichever process made them.

Both only move the head and record the move. They delete nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from ..catalog.tables import HeadMove, Model, Revision
from ..errors import InputError
from . import history


@dataclass(frozen=True)
class UndoState:
    """The moves that can be undone and redone, the next one last."""

    undo: tuple[HeadMove, ...]
    redo: tuple[HeadMove, ...]


def replay_moves(moves: Sequence[HeadMove]) -> UndoState:
    """Replay the moves. An undo removes the last move. A new move discards all undone moves."""
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
    return UndoState(tuple(done), tuple(undone))


def next_undo(session: Session, model: Model) -> HeadMove:
    """The move that `undo` reverses. Raises InputError if there is none."""
    found = replay_moves(history.list_head_moves(session, model)).undo
    if not found:
        raise InputError(f"there is nothing to undo for {model.name}: its head has not moved.")
    return found[-1]


def next_redo(session: Session, model: Model) -> HeadMove:
    """The move that `redo` repeats. Raises InputError if there is none."""
    found = replay_moves(history.list_head_moves(session, model)).redo
    if not found:
        raise InputError(f"there is nothing to redo for {model.name}: the last move was not an undo.")
    return found[-1]


def undo(session: Session, model: Model) -> Revision:
    """Move the head back to its previous revision. Returns that revision. Flushes; raises InputError."""
    return _move(session, model, next_undo(session, model).from_revision, "undo")


def redo(session: Session, model: Model) -> Revision:
    """Repeat the last undone move. Returns the new head. Flushes; raises InputError."""
    return _move(session, model, next_redo(session, model).to_revision, "redo")


def _move(session: Session, model: Model, to: str | None, reason: str) -> Revision:
    if to is None:
        raise InputError(f"the head of {model.name} had no earlier revision.")
    revision = history.find_revision(session, model, to)
    history.move_head(session, model, revision, reason)
    return revision
