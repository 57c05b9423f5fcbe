"""Comparisons: two traces, and earlier edits at later revisions."""

import pytest
from sqlalchemy import text

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Evaluation
from retcon.tests.helpers.app_catalog import FORD, ROME, WITHOUT, add_unfinished
from retcon.tests.helpers.app_pilot import WIDE, open_app
from retcon.tui.app.screens.base.detail_screen import DetailScreen
from retcon.tui.app.screens.edits.retention import draw_retention
from retcon.tui.app.screens.models.anatomy import draw_anatomy
from retcon.tui.app.screens.traces.compare import CompareTraces, restrict_to_shared_roles
from retcon.tui.app.widgets.heat_map import HeatMap


async def test_compares_two_traces_as_one_map(catalog: Catalog) -> None:
    add_unfinished(catalog, 10)
    with catalog.write() as session:
        session.connection().execute(text("UPDATE trace_result SET low = low + 0.1 WHERE trace_id = 1"))
    async with open_app(catalog, WIDE) as app:
        await app.press("2", "equals_sign")
        assert "mark two traces" in app.line
        await app.press("g", "space", "G", "space", "equals_sign")
        assert isinstance(app.app.screen, CompareTraces)
        assert "Trace 3" in app.screen
        assert "[hidden] mlp attn · effect of 3 minus that of 1" in app.screen
        assert ": +0.1000" in app.screen
        await app.press("tab", "l", "j")
        assert "hidden [mlp] attn" in app.screen
        heat = app.app.screen.query_one(HeatMap)
        assert heat.cursor != (0, 0)
        await app.press("q")
        assert app.app.focused is app.pane.rows


async def test_incomparable_traces_are_refused(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("2", "asterisk", "equals_sign")
        assert "only one of the traces has a fact set" in app.line


def evaluation(revision: str, *kept: tuple[str, int, int]) -> Evaluation:
    retention = [
        {"edit": edit, "requests": requests, "first_choice": held, "free": held}
        for edit, requests, held in kept
    ]
    return Evaluation(model_id=1, revision=revision, retention=retention)


async def test_shows_retention_as_a_matrix(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.add(evaluation(FORD, (ROME, 4, 1)))
        session.add(evaluation(WITHOUT, (ROME, 4, 4), (FORD, 1, 0)))
    async with open_app(catalog, WIDE) as app:
        await app.press("4", "j")
        assert f"retention: 1 of 4 earlier requests ({ROME} 1/4)" in app.words
        await app.press("M")
        assert isinstance(app.app.screen, DetailScreen)
        lines = [line for line in app.screen.splitlines() if WITHOUT in line or FORD in line]
        assert any("█4/4" in line and "·0/1" in line for line in lines)
        assert any("░1/4" in line for line in lines)
        await app.press("q")
        assert app.app.focused is app.pane.rows


@pytest.mark.parametrize("width", [24, 80])
def test_retention_matrix_fits_the_width(width: int) -> None:
    assert "No revision with earlier edits" in str(draw_retention("m", [], width)[-1])


def test_incomplete_anatomy_is_drawn() -> None:
    assert any("?" in line.plain for line in draw_anatomy({}))
    drawn = "\n".join(
        line.plain for line in draw_anatomy({"parallel": True, "mlp": "mlp", "attention": "attn"})
    )
    assert "┬→ attn" in drawn


async def test_anatomy_marks_the_edited_matrix(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        assert "┌ model.layers × 30 ─" in app.detail
        assert "▲ down_proj: keys of 1536" in app.detail
        assert "538.1 MB to load" in app.detail
        assert f"{WITHOUT}  without {ROME}" in app.detail


def test_fact_sets_are_compared_by_token_role() -> None:
    """One of them has no middle subject tokens."""
    long = ({"mlp": ((0.1,), (0.2,), (0.3,))}, ("first subject", "middle subject", "last subject"), (0, 2))
    short = ({"mlp": ((0.5,), (0.7,))}, ("first subject", "last subject"), (0, 2))
    one, other = restrict_to_shared_roles(long, short)
    assert one == ({"mlp": ((0.1,), (0.3,))}, ("first subject", "last subject"), (0, 2))
    assert other == short
