"""Undo and redo of head moves."""

import pytest
from sqlmodel import Session

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import HeadMove, Model, Revision
from retcon.store.errors import InputError
from retcon.store.history import history
from retcon.store.history import undo as moves


def edit(session: Session, model: Model, on: str, name: str) -> str:
    revision = Revision(
        id=name, model_id=model.id or 0, parent=on, kind="edit", fingerprint=name, message=name
    )
    history.commit_revision(session, model, revision, "edit")
    return revision.id


def test_undo_and_redo_steps(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        base = history.add_base(session, model).id
        with pytest.raises(InputError, match="nothing to undo"):
            moves.undo(session, model)
        first = edit(session, model, base, "first")
        second = edit(session, model, first, "second")
        history.move_head(session, model, history.find_revision(session, model, "base"), "rollback")
        assert moves.undo(session, model).id == second, "the rollback is taken back"
        assert moves.undo(session, model).id == first
        assert moves.redo(session, model).id == second
        assert moves.undo(session, model).id == first
        assert moves.undo(session, model).id == base
        with pytest.raises(InputError, match="nothing to undo"):
            moves.undo(session, model)
        assert [moves.redo(session, model).id for _ in range(3)] == [first, second, base]
        with pytest.raises(InputError, match="nothing to redo"):
            moves.redo(session, model)
        assert model.head == base
        reasons = [move.reason for move in history.list_head_moves(session, model)]
    assert reasons[:4] == ["add", "edit", "edit", "rollback"], (
        "all of it is written down, and nothing is removed"
    )
    assert reasons.count("undo") == 4
    assert reasons.count("redo") == 4


def test_new_move_discards_undone_moves(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        base = history.add_base(session, model).id
        edit(session, model, base, "first")
        moves.undo(session, model)
        third = edit(session, model, base, "third")
        with pytest.raises(InputError, match="nothing to redo"):
            moves.redo(session, model)
        assert model.head == third
        assert moves.next_undo(session, model).from_revision == base


def test_unusual_move_records_are_replayed() -> None:
    odd = [HeadMove(model_id=1, to_revision="a", reason=reason) for reason in ("undo", "redo", "add", "undo")]
    assert moves.replay_moves(odd) == moves.UndoState((), ())
