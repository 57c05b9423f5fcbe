"""The app on a filled catalog: content of the panes and navigation."""

import pytest

from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.app_catalog import BASE, BRANCH, FORD, ROME, WITHOUT
from retcon.tests.helpers.app_pilot import NARROW, WIDE, open_app
from retcon.tui.app.widgets.detail import Detail


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_empty_catalog_shows_the_first_step(empty: Catalog, size: tuple[int, int]) -> None:
    async with open_app(empty, size) as app:
        assert "No models yet: press a" in app.screen
        for key, words in (
            ("2", "press t"),
            ("3", "retcon covariance run"),
            ("4", "add one"),
            ("5", "No jobs yet"),
        ):
            await app.press(key)
            assert words in app.words
        for key in ("e", "z", "x", "s", "K", "r", "enter", "n", "p", "tab", "G", "escape"):
            await app.press(key)


async def test_tabs_by_number_bracket_and_mouse(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        before, after = "left_square_bracket", "right_square_bracket"
        for key, name in (
            ("3", "covariances"), (after, "edits"), (after, "jobs"), (after, "passages"), (after, "models"),
            (before, "passages"), ("5", "jobs"), ("2", "traces"),
        ):  # fmt: skip
            await app.press(key)
            assert app.pane.id == name
            assert app.app.focused is app.pane.rows
        await app.pilot.click("TabBar", offset=(2, 0))
        assert app.pane.id == "models"


async def test_model_detail_shows_the_anatomy(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        assert "LlamaForCausalLM" in app.list[0]
        assert "134.5M" in app.list[0]
        for words in (
            "model.layers.N.mlp.down_proj.weight",
            "4 revisions after the base",
            "2026-03-01 12:00 UTC",
        ):
            assert words in app.detail
        assert app.line == "$ retcon model show starter"


async def test_burst_of_keys_reaches_the_new_tab(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        for key in "4jj":
            app.app.simulate_key(key)
        await app.press("j")
        assert app.pane.rows.key == ROME


async def test_burst_of_keys_reaches_the_opened_row(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        for key in ("2", "enter", "q"):
            app.app.simulate_key(key)
        await app.press("j")
        assert app.app.is_running
        assert app.app.focused is app.pane.rows


async def test_enter_opens_and_back_keys_close(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        for back in ("q", "escape", "backspace"):
            await app.press("2", "enter")
            assert app.app.focused is app.pane.detail
            assert not app.pane.query_one(".list").display, "narrow: the detail gets the whole place"
            await app.press(back)
            assert app.app.focused is app.pane.rows
        await app.press("escape", "backspace")
        assert app.app.is_running
        await app.press("q")
        assert not app.app.is_running


async def test_history_is_a_graph_with_statuses(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("4")
        shown = dict(zip((WITHOUT, FORD, BRANCH, ROME, BASE), app.list, strict=True))
        assert "revert, head" in shown[WITHOUT]
        assert "live" in shown[FORD]
        assert "other branch" in shown[BRANCH]
        assert "reverted" in shown[ROME]
        assert "base" in shown[BASE]
        assert [line.split("  ")[0].strip() for line in app.list] == ["↶", "●", "│ ◌", "○─╯", "◆"]
        await app.press("j")
        for words in ("rome at layer 5, seed 1", "loss 6.00 █", "0.050 in 7 steps", "4.61% of the matrix",
                      "ES 1.000   PS 0.500", "Toyota Camry is produced by → Ford"):  # fmt: skip
            assert words in app.detail


async def test_jobs_show_how_they_ended(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("5")
        for line, words in zip(
            app.list, ("– cancelled", "! interrupted", "✗ failed", "✓ done", "✓ done"), strict=True
        ):
            assert words in line
        await app.press("j", "j")
        for words in (
            "✗ the disk is full",
            "reading texts: 40 %",
            "Traceback of the worker",
            "facts  towers",
        ):
            assert words in app.detail
        assert "reading texts\r" not in app.detail


async def test_help_lists_the_bindings(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("4", "question_mark")
        for words in ("move the head to this revision", "j ↓", "1 2 3 4 5", "copy the command", "these keys"):
            assert words in app.app.screen.query_one(Detail).text
        await app.press("question_mark")
        assert app.app.focused is app.pane.rows


async def test_copies_the_command(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("2", "Y")
        assert app.app.clipboard == "retcon trace show 2"
        assert "OSC 52" in app.line


async def test_narrow_and_wide_layout(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4")
        rows, detail = app.pane.rows.region, app.pane.detail.region
        assert rows.bottom <= detail.y
        await app.pilot.resize_terminal(*WIDE)
        await app.pilot.pause()
        rows, detail = app.pane.rows.region, app.pane.detail.region
        assert rows.right <= detail.x
        await app.press("enter")
        assert app.pane.query_one(".list").display


async def test_long_lists_scroll_with_the_cursor(catalog: Catalog) -> None:
    with catalog.write() as session:
        for _ in range(600):
            rows.create(session, "verify", {"model": "starter", "revision": "head"}, "cpu")
    async with open_app(catalog) as app:
        await app.press("5")
        assert len(app.pane.rows.keys) == 605
        await app.press("G")
        assert app.pane.rows.cursor == 604
        assert app.pane.rows.scroll_y > 500
        await app.press("ctrl+u", "g")
        assert (app.pane.rows.cursor, app.pane.rows.scroll_y) == (0, 0)
