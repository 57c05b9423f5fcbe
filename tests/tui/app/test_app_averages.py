"""The traces pane: averages of fact sets, running traces, and saved figures."""

from pathlib import Path

import pytest
from sqlalchemy import text

from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.app_catalog import add_unfinished
from retcon.tests.helpers.app_pilot import NARROW, WIDE, AppPilot, open_app
from retcon.tui.app.screens.base.detail_screen import DetailScreen
from retcon.tui.app.widgets.detail import Detail
from retcon.tui.app.widgets.drawings import CurvesDrawing, HeatMapDrawing


def picture(app: AppPilot) -> object:
    return app.pane.detail.drawing  # type: ignore[attr-defined]


async def test_map_becomes_exact_during_the_trace(catalog: Catalog) -> None:
    add_unfinished(catalog, 3)
    other = Catalog.open(catalog.home, migrate=False)
    async with open_app(catalog) as app:
        await app.press("2", "enter", "G")
        assert "~ estimate .:+x# (attribution patching), 90 of 300 cells exact" in app.screen
        assert "not finished: the job replaces estimates" in app.detail
        assert "subject swapped for 'The Big Ben'" in app.detail
        assert "of · layer 6: estimate ~p 0." in app.screen
        await app.press("g")
        assert "The* · layer 6: p 0." in app.screen
        add_unfinished(other, 5)
        await app.until(lambda: "150 of 300 cells exact" in app.screen)
        assert "The* · layer 6: p 0." in app.screen, "the cursor stays"
        add_unfinished(other, 10)
        await app.until(lambda: "estimate" not in app.detail)
        assert "not finished" not in app.detail
        await app.press("G")
        assert "of · layer 6: p 0." in app.screen
    other.close()


async def test_cursor_starts_at_the_highest_cell(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.connection().execute(text("DELETE FROM trace_result WHERE trace_id = 1"))
    other = Catalog.open(catalog.home, migrate=False)
    async with open_app(catalog) as app:
        await app.press("2", "G")
        assert "Nothing traced yet" in app.detail
        with other.write() as session:
            session.connection().execute(text("UPDATE trace_result SET trace_id = 1 WHERE position = 2"))
        await app.until(lambda: "of · layer 23: p 0.7636" in app.screen)
    other.close()


async def test_fact_stays_visible_when_earlier_ones_finish(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.connection().execute(
            text("UPDATE trace_result SET trace_id = 1, position = 9 WHERE position = 1")
        )
    other = Catalog.open(catalog.home, migrate=False)
    async with open_app(catalog) as app:
        await app.press("2", "n", "n")
        assert "fact 2/2" in app.screen
        with other.write() as session:
            session.connection().execute(
                text("UPDATE trace_result SET trace_id = 2, position = 1 WHERE position = 9")
            )
        await app.until(lambda: "fact 3/3" in app.screen)
        await app.press("p")
        assert "Not traced: the model's first choice" in app.detail
    other.close()


async def test_shows_all_five_kinds(catalog: Catalog) -> None:
    add_unfinished(catalog, 3)
    async with open_app(catalog) as app:
        await app.press("2")
        for keys, shown in (
            (("m",), "hidden mlp attn [severed-mlp] severed-attn · p(Paris) state, MLP severed"),
            (("tab",), "[severed-attn] · p(Paris) state, attn severed"),
            (("tab",), "[hidden]"),
            (("a",), "[severed-attn]"),
            (("H",), "[hidden]"),
        ):
            await app.press(*keys)
            assert shown in app.detail
        await app.press("m", "enter", "G")
        assert "layer 6: not traced" in app.screen, "a severed path has no estimate"
        await app.press("q", "G", "m")
        assert "kind severed-mlp was not traced" in app.line


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_curves_of_a_fact_set(catalog: Catalog, size: tuple[int, int]) -> None:
    async with open_app(catalog, size) as app:
        await app.press("2", "c")
        assert isinstance(picture(app), CurvesDrawing)
        assert "[all] hidden mlp attn · AIE at the last subject token" in app.detail
        assert "H hidden  M mlp  A attn" in app.detail
        assert "95 % interval" in app.detail
        assert "2 facts traced, 1 skipped (1 wrong first choice)" in app.detail
        assert "last subject · layer 6: H +0.393 M +0.073 A +0.001" in app.screen
        await app.press("enter", "l", "j")
        assert "AIE at the last token" in app.detail
        assert "last · layer 7: H +0.003" in app.screen
        assert "┊" in app.detail
        for key, shown in (
            ("tab", "all [hidden] mlp"),
            ("tab", "hidden [mlp]"),
            ("A", "mlp [attn]"),
            ("tab", "[all]"),
        ):
            await app.press(key)
            assert shown in app.detail
        await app.press("M", "k", "k", "k", "asterisk")
        assert "last subject · layer 2: AIE +0.2634 (+0.2534 to +0.2734, 2 facts)" in app.screen
        await app.press("c")
        assert isinstance(picture(app), HeatMapDrawing)
        assert "average indirect effect over 2 facts" in app.detail


async def test_curves_key_needs_averages(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("2")
        assert "c curves" in app.screen
        await app.press("n", "c")
        assert "AIE at the last subject token" in app.detail
        await app.press("G")
        assert "c curves" not in app.screen
        await app.press("c")
        assert isinstance(picture(app), HeatMapDrawing)


async def test_reasons_to_skip_facts_are_counted(catalog: Catalog) -> None:
    reasons = (
        "the model's first choice is ' x' (p = 0.1), not 'y'", "no other subject of the set takes as many tokens",
        "the subject 'a' is not in the prompt 'b'; it must stand there letter for letter", "the moon was full",
        "no other subject of the set takes as many tokens",
    )  # fmt: skip
    with catalog.write() as session:
        for number, reason in enumerate(reasons):
            session.connection().execute(
                text(
                    "INSERT INTO trace_result (trace_id, position, prompt, subject, tokens, token_ids, subject_begin, "
                    "subject_end, answer, scores, estimate, is_complete, skip_reason) "
                    "VALUES (2, :at, 'p', 's', '[]', '[]', 0, 0, '', '{}', '{}', 1, :why)"
                ),
                {"at": 10 + number, "why": reason},
            )
    async with open_app(catalog, WIDE) as app:
        await app.press("2")
        assert (
            "2 facts traced, 6 skipped (2 wrong first choice, 2 no swap partner, 1 subject not found, "
            "1 another reason)" in " ".join(app.detail.split())
        )


async def test_locate_shows_layers_and_notes(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("2", "L")
        assert isinstance(app.app.screen, DetailScreen)
        for words in (
            "Trace 2 proposes layer 2", "2 facts traced, 1 skipped (1 wrong first choice)", "Total effect 0.689",
            "does not by itself predict the best layer to edit (Hase et al. 2023)", "▶ 2 +0.2634 (+0.2534 to +0.2734)",
            "$ retcon edit sweep starter --trace 2 --facts SET",
        ):  # fmt: skip
            assert words in " ".join(app.app.screen.query_one(Detail).text.split())
        await app.press("q")
        assert app.app.focused is app.pane.rows
        assert app.line.startswith("$ retcon trace locate 2")


async def test_locate_without_effects_is_refused(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.connection().execute(text("DELETE FROM average_effect"))
        session.connection().execute(text("""UPDATE trace SET kinds = '["severed-mlp"]' WHERE id = 1"""))
    async with open_app(catalog) as app:
        await app.press("2", "L")
        assert "no effects at the last subject token yet" in app.line
        await app.press("G", "L")
        assert "has only severed kinds" in app.line


async def test_pictures_are_saved_in_the_current_folder(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    async with open_app(catalog, WIDE) as app:
        for keys, name, cli_equivalent in (
            (("2", "x"), "trace-2-effects.png", "$ retcon trace plot 2 --effects"),
            (("n", "M", "x"), "trace-2-fact-0-mlp.png",
             "$ retcon trace plot 2 --kind mlp --fact 0 --out trace-2-fact-0-mlp.png"),
            (("G", "x"), "trace-1-hidden.png", "$ retcon trace plot 1 --kind hidden"),
        ):  # fmt: skip
            await app.press(*keys)
            await app.until(lambda name=name: f"drew ~/here/{name}" in app.line)  # type: ignore[misc]
            assert app.line.startswith(cli_equivalent)
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
        await app.press("g", "n", "n", "x")
        assert "there is no drawing to save" in app.line
    assert len(list(folder.iterdir())) == 3


async def test_failed_picture_shows_the_error(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    async with open_app(catalog) as app:
        await app.press("2", "G", "x")
        await app.until(lambda: "✗" in app.line)
        assert app.app.is_running
