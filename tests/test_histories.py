"""Random sequences of edits, branches, reverts, rollbacks, undos and redos agree with a simple model.

The weights are real: deltas change a matrix, and the fingerprint is the hash of its bits.
"""

import atexit
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from retcon.engine.model.delta import Delta, Factors, Materializer, concatenate
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.catalog.tables import Model, Revision
from retcon.store.errors import InputError
from retcon.store.history import history
from retcon.store.history import undo as moves
from retcon.store.home import Home

NAME = "0.weight"


@dataclass
class ModelRevision:
    """A revision of the simple model. A revert names the revision that it reverts."""

    id: str
    parent: "ModelRevision | None" = None
    reverts: "ModelRevision | None" = None

    @property
    def path(self) -> list["ModelRevision"]:
        return [*(self.parent.path if self.parent else []), self]

    def is_live(self, end: "ModelRevision") -> bool:
        """Whether no live revert on the path to `end` reverts this revision."""
        return not any(step.reverts is self and step.is_live(end) for step in end.path)


@dataclass
class ModelHistory:
    """The history that the documentation describes."""

    head: ModelRevision
    all: list[ModelRevision] = field(default_factory=list)
    done: list[tuple[ModelRevision, ModelRevision]] = field(default_factory=list)
    undone: list[tuple[ModelRevision, ModelRevision]] = field(default_factory=list)

    def move_to(self, to: ModelRevision) -> None:
        self.done.append((self.head, to))
        self.undone.clear()
        self.head = to


def list_live_edits(end: ModelRevision, edits: set[str]) -> list[str]:
    return [step.id for step in end.path if step.id in edits and step.is_live(end)]


@cache
def empty_home() -> Path:
    """The empty catalog that every history starts from. Migrating a new one takes longer than a history."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    Catalog.open(Home(folder / "home")).close()
    return folder / "home"


class Histories(RuleBasedStateMachine):
    """Applies each step to the catalog's history and to a `ModelHistory`, and compares them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(empty_home(), self.folder / "home")
        self.catalog = Catalog.open(Home(self.folder / "home"))
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 3, bias=False)).to(torch.bfloat16)
        self.weights = Materializer(self.network)  # type: ignore[arg-type]
        self.deltas: dict[str, Delta] = {}
        # By the live edits, in their order.
        self.fingerprints: dict[tuple[str, ...], str] = {}

    def teardown(self) -> None:
        self.catalog.close()
        connection = connect(self.folder / "home" / "catalog.db")
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        integrity = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        shutil.rmtree(self.folder)
        assert (broken, integrity) == ([], ("ok",))

    def fingerprint(self, edits: list[str]) -> str:
        self.weights.set(concatenate(self.deltas[id] for id in edits))
        bits = self.network.get_parameter(NAME).detach().view(torch.int16).numpy().tobytes()
        return hashlib.sha256(bits).hexdigest()

    @initialize()
    def add(self) -> None:
        with self.catalog.write() as session:
            model = Model(
                name="tiny", source="x", source_kind="folder", path="/x", architecture="Llama", dtype="bfloat16",
                parameters=12, size=24, fingerprint=self.fingerprint([]),
            )  # fmt: skip
            base = ModelRevision(history.add_base(session, model).id)
        self.expected = ModelHistory(base, [base])

    def commit(self, parent: ModelRevision, reverts: ModelRevision | None) -> None:
        number = len(self.expected.all)
        new = ModelRevision(f"{number:010d}", parent, reverts)
        if reverts is None:
            chance = torch.Generator().manual_seed(number)
            b, a = torch.randn(3, 2, generator=chance), torch.randn(2, 4, generator=chance)
            self.deltas[new.id] = {NAME: Factors(b, a)}
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            revision = Revision(
                id=new.id, model_id=model.id or 0, parent=parent.id, kind="revert" if reverts else "edit",
                reverts=reverts.id if reverts else None, fingerprint="",
            )  # fmt: skip
            steps = [*history.load_path(session, parent.id), revision]
            revision.fingerprint = self.fingerprint([one.id for one in history.live_edits(steps)])
            history.commit_revision(session, model, revision, revision.kind)
        self.expected.all.append(new)
        self.expected.move_to(new)

    @rule()
    def edit(self) -> None:
        self.commit(self.expected.head, None)

    @rule(data=st.data())
    def branch(self, data: st.DataObject) -> None:
        self.commit(data.draw(st.sampled_from(self.expected.all)), None)

    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        """Revert a live revision of the path. Prefers reverts: reverts of reverts are the hard case."""
        head = self.expected.head
        found = [one for one in head.path[1:] if one.is_live(head)]
        reverts = [one for one in found if one.reverts is not None]
        if found:
            self.commit(head, data.draw(st.sampled_from(reverts or found) | st.sampled_from(found)))

    @rule(data=st.data())
    def revert_invalid(self, data: st.DataObject) -> None:
        """Reverting the base, a revision off the path, or a reverted one is rejected and changes nothing."""
        head = self.expected.head
        found = [one for one in self.expected.all if one not in head.path[1:] or not one.is_live(head)]
        with pytest.raises(InputError):
            self.commit(head, data.draw(st.sampled_from(found)))

    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        to = data.draw(st.sampled_from(self.expected.all))
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            history.move_head(session, model, history.find_revision(session, model, to.id), "rollback")
        self.expected.move_to(to)

    @rule()
    def undo(self) -> None:
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            if not self.expected.done:
                with pytest.raises(InputError, match="nothing to undo"):
                    moves.undo(session, model)
                return
            moves.undo(session, model)
        step = self.expected.done.pop()
        self.expected.undone.append(step)
        self.expected.head = step[0]

    @rule()
    def redo(self) -> None:
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            if not self.expected.undone:
                with pytest.raises(InputError, match="nothing to redo"):
                    moves.redo(session, model)
                return
            moves.redo(session, model)
        step = self.expected.undone.pop()
        self.expected.done.append(step)
        self.expected.head = step[1]

    @precondition(lambda self: hasattr(self, "expected"))
    @invariant()
    def agree(self) -> None:
        expected = self.expected
        with self.catalog.read() as session:
            model = history.find_model(session, "tiny")
            assert model.head == expected.head.id
            assert {one.id for one in history.list_revisions(session, model)} == {
                one.id for one in expected.all
            }
            for one in expected.all:
                path = history.load_path(session, one.id)
                assert [step.id for step in path] == [step.id for step in one.path]
                assert path[0].kind == "base"
                edits = [step.id for step in history.live_edits(path)]
                assert edits == list_live_edits(one, set(self.deltas))
                fingerprint = self.fingerprints.setdefault(tuple(edits), path[-1].fingerprint)
                assert path[-1].fingerprint == fingerprint, "the same edits have other weights"
            left = moves.replay_moves(history.list_head_moves(session, model))
            assert [(m.from_revision, m.to_revision) for m in left.undo] == [
                (a.id, b.id) for a, b in expected.done
            ]
            assert [(m.from_revision, m.to_revision) for m in left.redo] == [
                (a.id, b.id) for a, b in expected.undone
            ]


TestHistories = Histories.TestCase
TestHistories.settings = settings(stateful_step_count=20 if settings().max_examples < 100 else 50)


def test_reverts_of_reverts() -> None:
    """An edit, its revert, the revert of the revert, and once more. Random sequences rarely reach this case."""
    histories = Histories()
    histories.add()
    histories.edit()
    edit = histories.expected.head
    live_after_step = [True]
    for _ in range(3):
        histories.commit(histories.expected.head, histories.expected.head)
        histories.agree()
        live_after_step.append(edit.is_live(histories.expected.head))
    assert live_after_step == [True, False, True, False]
    histories.teardown()
