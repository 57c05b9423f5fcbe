"""The listing in plain SQL against the rows that SQLModel reads."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from retcon.engine.jobs.listing import build_job_record, list_newest_jobs
from retcon.engine.jobs.reap import reap
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.errors import CatalogError
from retcon.store.home import Home


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(Home(tmp_path / "home"))
    yield opened
    opened.close()


def _create(catalog: Catalog, number: int) -> None:
    with catalog.write() as session:
        job = rows.create(
            session, "trace", {"model": "gpt", "subjects": [{"é": number}]}, "cpu", priority=number
        )
        assert job.id is not None
        rows.claim(session, job.id, f"token {number}", pid=number)
        rows.mark_running(session, job.id, f"token {number}")
        rows.save_checkpoint(session, job.id, f"token {number}", {"trace": number})
        if number % 2:
            rows.finish(session, job.id, f"token {number}", {"trace": number, "name": "a"})


def test_listing_equals_the_rows_of_the_table(catalog: Catalog) -> None:
    for number in range(4):
        _create(catalog, number)
    with catalog.read() as session:
        table_rows = rows.list_jobs(session)
    assert [build_job_record(one) for one in list_newest_jobs(catalog)] == [
        build_job_record(one) for one in table_rows
    ]
    assert [one.id for one in list_newest_jobs(catalog, 2)] == [4, 3]


def test_reap_marks_a_dead_job_once(catalog: Catalog) -> None:
    for number in range(2):
        _create(catalog, number)
    assert reap(catalog) == [1]
    assert [one.state for one in list_newest_jobs(catalog)] == ["done", "interrupted"]
    assert reap(catalog) == []


def test_an_unreadable_row_is_named(catalog: Catalog) -> None:
    _create(catalog, 1)
    with sqlite3.connect(catalog.home.catalog) as connection:
        connection.execute("UPDATE job SET spec = '{'")
    with pytest.raises(CatalogError, match=r"row of job 1 cannot be read.*catalog check"):
        list_newest_jobs(catalog)
