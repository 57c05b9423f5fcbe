"""A model's history: live edits, names of revisions, and the head."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Model, Revision
from retcon.store.errors import CatalogError, InputError, NotFound
from retcon.store.history import history

DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Story:
    """Adds revisions to a history with short calls."""

    def __init__(self, session: Session, model: Model) -> None:
        self.session = session
        self.model = model
        model.created = DAY
        self.base = history.add_base(session, model)
        self.minutes = 0

    def add(self, on: Revision, kind: str = "edit", of: Revision | None = None) -> Revision:
        self.minutes += 1
        assert self.model.id is not None
        revision = Revision(
            model_id=self.model.id,
            parent=on.id,
            kind=kind,
            reverts=of.id if of else None,
            fingerprint=f"f{self.minutes}",
            message=f"step {self.minutes}",
            created=DAY + timedelta(minutes=self.minutes),
        )
        history.commit_revision(self.session, self.model, revision, kind)
        return revision

    def revert(self, on: Revision, of: Revision) -> Revision:
        return self.add(on, "revert", of)

    def live(self, at: Revision) -> list[Revision]:
        return history.live_edits(history.load_path(self.session, at.id))


def test_base_is_the_first_head(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        base = history.add_base(session, model)
    assert (base.kind, base.parent, base.fingerprint, model.head) == (
        "base",
        None,
        model.fingerprint,
        base.id,
    )
    with catalog.read() as session:
        assert [move.reason for move in history.list_head_moves(session, model)] == ["add"]
        assert history.live_edits(history.load_path(session, base.id)) == []


def test_ids_come_from_the_content() -> None:
    content = {
        "model": "tiny",
        "parent": None,
        "kind": "edit",
        "hparams": {"b": 1, "a": [2.5]},
        "created": DAY,
    }
    name = history.revision_id(**content)
    assert len(name) == 10 and int(name, 16) >= 0
    assert history.revision_id(**dict(reversed(content.items()))) == name
    assert history.revision_id(**{**content, "kind": "revert"}) != name
    with pytest.raises(TypeError):
        history.revision_id(hparams=object())


def test_id_is_stable_after_saving(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        edit = story.add(story.base)
    with catalog.read() as session:
        again = session.get_one(Revision, edit.id)
        assert history.id_of(model, again) == edit.id


def test_live_edits_are_in_order(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        one = story.add(story.base)
        two = story.add(one)
        three = story.add(two)
        assert history.load_path(session, three.id) == [story.base, one, two, three]
        assert story.live(three) == [one, two, three]
        assert history.list_revisions(session, model) == [story.base, one, two, three]


def test_revert_of_revert_restores_the_position(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        one = story.add(story.base)
        two = story.add(one)
        three = story.add(two)
        without = story.revert(three, of=two)
        assert story.live(without) == [one, three]
        four = story.add(without)
        assert story.live(four) == [one, three, four]
        back = story.revert(four, of=without)
        assert story.live(back) == [one, two, three, four]
        out_again = story.revert(back, of=back)
        assert story.live(out_again) == [one, three, four]


def test_dependent_edits_share_a_subject(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        revisions = [story.base]
        for subjects in ("Ada", "Ada Boris", "Boris", "Clara", "Ada"):
            revisions.append(story.add(revisions[-1]))
            revisions[-1].requests = [{"subject": subject} for subject in subjects.split()]
        _, ada, both, boris, clara, again = revisions
        end = history.load_path(session, again.id)
        assert history.dependent_edits(end, ada) == [both, again]
        assert history.dependent_edits(end, both) == [boris, again]
        assert history.dependent_edits(end, clara) == history.dependent_edits(end, again) == []
        without = history.load_path(session, story.revert(again, of=both).id)
        assert history.dependent_edits(without, ada) == [again]


def test_impossible_revert_is_rejected(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        one = story.add(story.base)
        beside = story.add(story.base)
        out = story.revert(one, of=one)
        for on, of, why in (
            (one, story.base, "is the base"),
            (one, beside, "not an ancestor"),
            (out, one, "already reverted"),
        ):
            with pytest.raises(InputError, match=why):
                story.revert(on, of)
        with pytest.raises(NotFound):
            history.load_path(session, "nowhere")


def test_cyclic_history_is_rejected(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        one = story.add(story.base)
        two = story.add(one)
        one.parent = two.id
        with pytest.raises(CatalogError, match="contains a cycle"):
            history.load_path(session, two.id)
        session.rollback()


def test_branches_have_their_own_weights(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        one = story.add(story.base)
        branch = story.add(one)
        history.move_head(session, model, one, "rollback")
        assert model.head == one.id
        right = story.add(one)
        assert story.live(branch) == [one, branch]
        assert story.live(right) == [one, right]
        assert model.head == right.id
        moves = history.list_head_moves(session, model)
        assert [move.reason for move in moves] == ["add", "edit", "edit", "rollback", "edit"]
        assert [move.from_revision for move in moves[1:]] == [move.to_revision for move in moves[:-1]]


def test_stale_head_is_not_recorded(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
    with catalog.read() as session:
        mine = history.find_model(session, "tiny")
    with catalog.write() as session:
        story.session, story.model = session, history.find_model(session, "tiny")
        one = story.add(story.base)
    with catalog.write() as session:
        history.move_head(session, mine, history.find_revision(session, mine, "base"), "rollback")
        assert history.list_head_moves(session, mine)[-1].from_revision == one.id


def test_names_of_revisions(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        story = Story(session, model)
        one = story.add(story.base)
        two = story.add(one)
        for name, expected in (
            ("base", story.base),
            ("head", two),
            ("head~", one),
            ("head~1", one),
            ("head~2", story.base),
            ("head~0", two),
            ("head~1~1", story.base),
            (one.id, one),
            (one.id[:6], one),
            (f"{two.id}~1", one),
        ):
            assert history.find_revision(session, model, name) == expected, name
        for name, why in (
            ("head~3", "before the base"),
            ("zzzz", f"give 'head', 'base' or one of .*{two.id}"),
            (two.id[:2], "too short"),
            ("", "too short"),
        ):
            with pytest.raises(NotFound, match=why):
                history.find_revision(session, model, name)


def test_ambiguous_prefix_lists_candidates(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        for name in ("abcd000000", "abcd111111"):
            history.commit_revision(
                session,
                model,
                Revision(id=name, model_id=model.id, parent=base.id, kind="edit", fingerprint=""),
                "edit",
            )
        with pytest.raises(NotFound, match=r"abcd000000.*abcd111111"):
            history.find_revision(session, model, "abcd")
        assert history.find_revision(session, model, "abcd1").id == "abcd111111"


def test_revision_of_another_model_is_rejected(catalog: Catalog, model: Model) -> None:
    other = Model(**{**model.model_dump(), "name": "other"})
    with catalog.write() as session:
        base = history.add_base(session, model)
        history.add_base(session, other)
        assert other.id is not None
        with pytest.raises(CatalogError, match="is not a revision of other"):
            history.move_head(session, other, base, "rollback")
        with pytest.raises(CatalogError, match="is not a revision of other"):
            history.commit_revision(
                session,
                other,
                Revision(model_id=other.id, parent=base.id, kind="edit", fingerprint=""),
                "edit",
            )
        with pytest.raises(NotFound):
            history.find_revision(session, other, base.id)


def test_models_by_name(catalog: Catalog, model: Model) -> None:
    with catalog.write() as session:
        with pytest.raises(NotFound, match="retcon model add"):
            history.find_model(session, "tiny")
        history.add_base(session, model)
        assert history.find_model(session, "tiny").id == model.id
        with pytest.raises(NotFound, match="existing models are tiny"):
            history.find_model(session, "tinny")


def test_targets() -> None:
    assert history.parse_target("tiny") == ("tiny", "head")
    assert history.parse_target("tiny@head~2") == ("tiny", "head~2")
    for bad in ("", "@", "@head", "tiny@"):
        with pytest.raises(InputError, match="MODEL@REVISION"):
            history.parse_target(bad)
