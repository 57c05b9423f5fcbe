"""The list of each pane: long lists, filters, sort orders, marks, unreadable rows."""

import pytest
from sqlalchemy import text

from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.errors import InputError
from retcon.tests.helpers.app_pilot import WIDE, AppPilot, open_app
from retcon.tui.app.data.filters import parse
from retcon.tui.app.data.jobs import JOBS
from retcon.tui.app.data.rows import Query, select_keys
from retcon.tui.app.widgets.rows import FIRST

MANY = 3 * FIRST + 7


@pytest.fixture
def many(catalog: Catalog) -> Catalog:
    """A catalog with thousands of jobs; every seventh failed."""
    row = {"spec": '{"model": "starter", "prompt": "The Louvre is in"}', "result": "{}", "checkpoint": "{}"}
    with catalog.write() as session:
        session.connection().execute(
            text(
                "INSERT INTO job (id, kind, spec, state, priority, device, attempt, done, unit, activity, detail, "
                "result, checkpoint, nodes, created) VALUES (:id, 'trace', :spec, :state, 0, 'cpu', 0, :id, "
                "'', '', '', :result, :checkpoint, '{}', '2026-03-02 10:00:00.000000')"
            ),
            [row | {"id": id, "state": "failed" if id % 7 == 0 else "done"} for id in range(6, MANY + 1)],
        )
    return catalog


async def filtered(app: AppPilot, words: str) -> None:
    await app.press("slash")
    await app.type(words)
    await app.press("enter")


async def test_long_list_is_complete(many: Catalog) -> None:
    async with open_app(many) as app:
        await app.press("5")
        # The first part is visible before a thread has read the rest.
        await app.until(lambda: len(app.pane.rows.keys) == MANY and f"{MANY:,}" in app.screen)
        await app.press("G")
        assert app.pane.rows.key == 1
        assert "Job 1: model" in app.detail
        await app.press("g", "ctrl+d", "j")
        assert app.pane.rows.key == MANY - app.pane.rows.cursor
        key = app.pane.rows.key
        other = Catalog.open(many.home, migrate=False)
        with other.write() as session:
            rows.create(session, "verify", {"model": "starter"}, "cpu")
        await app.until(lambda: len(app.pane.rows.keys) == MANY + 1)
        assert app.pane.rows.key == key, "the cursor stays on its row"
        other.close()


async def test_only_visible_rows_are_read(many: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_app(many) as app:
        await app.press("5")
        read: list[int] = []
        pane = app.pane
        monkeypatch.setattr(pane, "cells", lambda row, make=pane.cells: read.append(row.id) or make(row))
        await app.press("G", "ctrl+u", "k", "g")
        assert 0 < len(read) < 400


async def test_filter_keeps_matching_rows(many: Catalog) -> None:
    async with open_app(many, (100, 30)) as app:
        await app.press("5")
        failed = sum(id % 7 == 0 for id in range(6, MANY + 1)) + 1
        await filtered(app, "state:failed")
        await app.until(lambda: len(app.pane.rows.keys) == failed)
        assert f"/state:failed {failed:,} of {MANY:,}" in app.screen
        await filtered(app, "LOUVRE !state:failed id:<20")
        assert set(app.pane.rows.keys) == {id for id in range(6, 20) if id % 7}
        await filtered(app, "~^(edit|export)$")
        assert list(app.pane.rows.keys) == [5, 2]
        await app.press("q")
        # q removes the filter before it quits.
        await app.until(lambda: len(app.pane.rows.keys) == MANY)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("stat:failed", "unknown field 'stat'"),
        ("~(", "is not a valid regular expression"),
        ("id:>x", "is not a number"),
    ],
)
async def test_invalid_filter_shows_its_error(catalog: Catalog, words: str, sentence: str) -> None:
    async with open_app(catalog, (140, 30)) as app:
        await app.press("5", "slash")
        await app.type(words)
        await app.press("enter")
        assert sentence in app.screen
        assert len(app.pane.rows.keys) == 5
        await app.press("escape")
        assert app.app.focused is app.pane.rows


async def test_empty_filter_result_and_way_back(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await filtered(app, "nowhere")
        assert "No row matches 'nowhere'" in app.screen
        await app.press("slash")
        await app.type("")
        await app.press("backspace")
        assert app.app.focused is app.pane.rows
        await app.press("backspace")
        assert len(app.list) == 1


async def test_sort_cycles_through_visible_columns(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("5", "o")
        assert "state↑" in app.screen
        assert [line.split()[1] for line in app.list] == [
            "cancelled",
            "done",
            "done",
            "failed",
            "interrupted",
        ]
        await app.press("O")
        assert "state↓" in app.screen
        assert "interrupted" in app.list[0]
        await app.press("o")
        assert list(app.pane.rows.keys) == [1, 2, 3, 4, 5]
        await app.pilot.click(app.pane.rows, offset=(1, 0))
        assert "state↑" in app.screen


async def test_graph_is_drawn_only_in_default_order(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("4")
        assert any("─╯" in line for line in app.list)
        await app.press("o", "o")
        assert not any("─╯" in line for line in app.list)


async def test_marks_select_rows(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("5", "space", "space", "G", "v")
        assert app.pane.rows.source.marked == {1, 2, 3, 4, 5}
        assert "5 marked" in app.screen
        await app.press("q")
        assert app.app.is_running
        assert not app.pane.rows.source.marked
        await app.press("asterisk")
        assert [row.key for row in app.pane.rows.selected_rows] == [5, 4, 3, 2, 1]


async def test_unreadable_row_can_be_filtered_and_sorted(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.connection().execute(text("UPDATE job SET spec = '{', result = 'x' WHERE id = 4"))
    async with open_app(catalog, WIDE) as app:
        await app.press("5")
        await filtered(app, "state:interrupted")
        assert "unreadable" in app.list[0]
        await app.press("o", "o", "o", "o", "o", "o", "enter")
        assert "this row is unreadable" in app.words


def test_quotes_and_signs_are_ordinary_words(catalog: Catalog) -> None:
    for words in ('"a:b"', "100%", "a_b", 'say:"', "!"):
        if words != 'say:"':
            assert not select_keys(catalog, JOBS, Query(words)) or words == "!"
    with pytest.raises(InputError):
        parse('say:"x"', JOBS.fields)
    assert list(select_keys(catalog, JOBS, Query('about:"starter"'))) == [5, 4, 3, 2, 1]
