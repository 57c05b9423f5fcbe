"""Any sequence of edits, branches, reverts, rollbacks, undos and redos, beside a plain model of what they mean.

The weights are real: a matrix that deltas are written into, whose fingerprint is that of its bits.
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
class Told:
    """A revision in the plain model; `of` is what a revert takes out."""

    id: str
    parent: "Told | None" = None
    of: "Told | None" = None

    @property
    def way(self) -> list["Told"]:
        return [*(self.parent.way if self.parent else []), self]

    def counts(self, at: "Told") -> bool:
        """Whether it is in force at `at`: no later revert on the way, itself in force, takes it out."""
        return not any(step.of is self and step.counts(at) for step in at.way)


@dataclass
class Story:
    """What a reader of the documentation would expect."""

    head: Told
    all: list[Told] = field(default_factory=list)
    done: list[tuple[Told, Told]] = field(default_factory=list)
    undone: list[tuple[Told, Told]] = field(default_factory=list)

    def go(self, to: Told) -> None:
        self.done.append((self.head, to))
        self.undone.clear()
        self.head = to


def live(at: Told, edits: set[str]) -> list[str]:
    return [step.id for step in at.way if step.id in edits and step.counts(at)]


@cache
def empty_home() -> Path:
    """A catalog that every history begins with; to migrate one takes longer than a history."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    Catalog.open(Home(folder / "home")).close()
    return folder / "home"


class Histories(RuleBasedStateMachine):
    """The catalog's history on the one side, `Story` on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(empty_home(), self.folder / "home")
        self.catalog = Catalog.open(Home(self.folder / "home"))
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 3, bias=False)).to(torch.bfloat16)
        self.weights = Materializer(self.network)  # type: ignore[arg-type]
        self.deltas: dict[str, Delta] = {}
        # By the edits in force, in their order.
        self.prints: dict[tuple[str, ...], str] = {}

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
            base = Told(history.add_base(session, model).id)
        self.told = Story(base, [base])

    def commit(self, parent: Told, of: Told | None) -> None:
        number = len(self.told.all)
        new = Told(f"{number:010d}", parent, of)
        if of is None:
            chance = torch.Generator().manual_seed(number)
            b, a = torch.randn(3, 2, generator=chance), torch.randn(2, 4, generator=chance)
            self.deltas[new.id] = {NAME: Factors(b, a)}
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            revision = Revision(
                id=new.id, model_id=model.id or 0, parent=parent.id, kind="revert" if of else "edit",
                reverts=of.id if of else None, fingerprint="",
            )  # fmt: skip
            steps = [*history.load_path(session, parent.id), revision]
            revision.fingerprint = self.fingerprint([one.id for one in history.live_edits(steps)])
            history.commit_revision(session, model, revision, revision.kind)
        self.told.all.append(new)
        self.told.go(new)

    @rule()
    def edit(self) -> None:
        self.commit(self.told.head, None)

    @rule(data=st.data())
    def branch(self, data: st.DataObject) -> None:
        self.commit(data.draw(st.sampled_from(self.told.all)), None)

    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        """Of what is in force on the way, a revert if there is one every other time: reverts of reverts are hard."""
        head = self.told.head
        found = [of for of in head.way[1:] if of.counts(head)]
        reverts = [of for of in found if of.of is not None]
        if found:
            self.commit(head, data.draw(st.sampled_from(reverts or found) | st.sampled_from(found)))

    @rule(data=st.data())
    def revert_nonsense(self, data: st.DataObject) -> None:
        """The base, what is not on the way, what is taken out already: refused, and nothing changes."""
        head = self.told.head
        found = [of for of in self.told.all if of not in head.way[1:] or not of.counts(head)]
        with pytest.raises(InputError):
            self.commit(head, data.draw(st.sampled_from(found)))

    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        to = data.draw(st.sampled_from(self.told.all))
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            history.move_head(session, model, history.find_revision(session, model, to.id), "rollback")
        self.told.go(to)

    @rule()
    def undo(self) -> None:
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            if not self.told.done:
                with pytest.raises(InputError, match="nothing to undo"):
                    moves.undo(session, model)
                return
            moves.undo(session, model)
        step = self.told.done.pop()
        self.told.undone.append(step)
        self.told.head = step[0]

    @rule()
    def redo(self) -> None:
        with self.catalog.write() as session:
            model = history.find_model(session, "tiny")
            if not self.told.undone:
                with pytest.raises(InputError, match="nothing to redo"):
                    moves.redo(session, model)
                return
            moves.redo(session, model)
        step = self.told.undone.pop()
        self.told.done.append(step)
        self.told.head = step[1]

    @precondition(lambda self: hasattr(self, "told"))
    @invariant()
    def agree(self) -> None:
        told = self.told
        with self.catalog.read() as session:
            model = history.find_model(session, "tiny")
            assert model.head == told.head.id
            assert {one.id for one in history.list_revisions(session, model)} == {one.id for one in told.all}
            for one in told.all:
                way = history.load_path(session, one.id)
                assert [step.id for step in way] == [step.id for step in one.way]
                assert way[0].kind == "base"
                edits = [step.id for step in history.live_edits(way)]
                assert edits == live(one, set(self.deltas))
                fingerprint = self.prints.setdefault(tuple(edits), way[-1].fingerprint)
                assert way[-1].fingerprint == fingerprint, "the same edits, other weights"
            left = moves.replay_moves(history.list_head_moves(session, model))
            assert [(m.from_revision, m.to_revision) for m in left.undo] == [
                (a.id, b.id) for a, b in told.done
            ]
            assert [(m.from_revision, m.to_revision) for m in left.redo] == [
                (a.id, b.id) for a, b in told.undone
            ]


TestHistories = Histories.TestCase
TestHistories.settings = settings(stateful_step_count=20 if settings().max_examples < 100 else 50)


def test_reverts_of_reverts() -> None:
    """The case that chance finds late: an edit, its revert, that one's revert, and once more."""
    histories = Histories()
    histories.add()
    histories.edit()
    edit = histories.told.head
    in_force = [True]
    for _ in range(3):
        histories.commit(histories.told.head, histories.told.head)
        histories.agree()
        in_force.append(edit.counts(histories.told.head))
    assert in_force == [True, False, True, False]
    histories.teardown()
