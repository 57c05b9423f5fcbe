"""The facts of a passage can change during the review, but not while its job is running."""

from dataclasses import replace

import pytest

from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Model, Passage
from retcon.store.errors import InputError
from retcon.store.facts import passages
from retcon.store.facts.passage_reader import parse_passage
from retcon.store.history import history

TEXT = "# Eiffel Tower\n- is located in the city of | Rome\n"
FILE = parse_passage(TEXT, "a passage")
OTHER = replace(FILE, facts=(replace(FILE.facts[0], object="Berlin"),))


@pytest.fixture
def passage(catalog: Catalog, model: Model) -> int:
    """A passage and its job, which is paused for a review."""
    with catalog.write() as session:
        base = history.add_base(session, model)
        row = Passage(model_id=model.id or 0, revision=base.id, method="joint", **passages.to_columns(FILE))
        session.add(row)
        session.flush()
        job = jobs.create(session, "passage", {}, "cpu")
        job.checkpoint, job.state = {"passage": row.id}, "paused"
        assert row.id is not None
        return row.id


def objects(catalog: Catalog, id: int) -> list[str]:
    with catalog.read() as session:
        return [fact.object for fact in passages.to_file(passages.find_passage(session, id)).facts]


def test_facts_can_change_during_review(catalog: Catalog, passage: int) -> None:
    with catalog.write() as session:
        passages.replace_facts(session, passage, OTHER)
    assert objects(catalog, passage) == ["Berlin"]


def test_facts_of_running_job_cannot_change(catalog: Catalog, passage: int) -> None:
    with catalog.write() as session:
        job = passages.find_job(session, passage)
        assert job is not None
        job.state = "running"
        session.add(job)
    with (
        pytest.raises(InputError, match="is working on passage 1: pause it first"),
        catalog.write() as session,
    ):
        passages.replace_facts(session, passage, OTHER)
    assert objects(catalog, passage) == ["Rome"]


def test_written_facts_cannot_change(catalog: Catalog, passage: int) -> None:
    with catalog.write() as session:
        row = passages.find_passage(session, passage)
        row.stages = [{"name": "extract"}, {"name": "check"}]
        session.add(row)
    with pytest.raises(InputError, match="are being written"), catalog.write() as session:
        passages.replace_facts(session, passage, OTHER)
    assert objects(catalog, passage) == ["Rome"]
