"""The app on a real catalog: what is seen, and what keys do. No job's process is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from retcon.engine.jobs import control
from retcon.store import jobs as rows
from retcon.store.catalog import Catalog
from retcon.store.home import Home
from retcon.store.tables import Job, Model
from retcon.tui.screens.confirm import Confirm
from retcon.tui.screens.edit_form import EditForm
from retcon.tui.widgets.heat_map import HeatMap
from sqlalchemy import text
from textual.widgets import Button, Input

from .app_catalog import BASE, BRANCH, FORD, ROME, WITHOUT, add_running, alive, fill
from .app_pilot import NARROW, WIDE, opened

HEAVY = ("torch", "transformers", "matplotlib", "datasets", "huggingface_hub", "numpy", "click")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A new catalog; jobs get their row and no process."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setattr(control, "_start", lambda home, job_id: None)
    return Catalog.open(Home(tmp_path / "retcon"))


@pytest.fixture
def catalog(empty: Catalog) -> Catalog:
    """A catalog with a model, its history, traces, a covariance, scores and jobs."""
    fill(empty)
    return empty


def jobs_of(catalog: Catalog) -> list[Job]:
    with catalog.read() as session:
        return rows.list_jobs(session)


def head_of(catalog: Catalog) -> str | None:
    with catalog.read() as session:
        return session.get_one(Model, 1).head


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_an_empty_catalog_says_what_to_do(empty: Catalog, size: tuple[int, int]) -> None:
    async with opened(empty, size) as app:
        assert "No models yet: press a" in app.screen
        for key, words in (
            ("2", "press t"),
            ("3", "retcon covariance run"),
            ("4", "add one"),
            ("5", "No jobs yet"),
        ):
            await app.press(key)
            assert words in " ".join(app.screen.split())
        for key in ("e", "z", "x", "s", "K", "r", "enter", "n", "p", "tab", "G", "escape"):
            await app.press(key)


async def test_tabs_by_number_by_bracket_and_by_mouse(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        for key, name in (("3", "covariances"), ("right_square_bracket", "edits"), ("right_square_bracket", "jobs"),
                          ("right_square_bracket", "models"), ("left_square_bracket", "jobs"), ("2", "traces")):  # fmt: skip
            await app.press(key)
            assert app.pane.id == name
            assert app.app.focused is app.pane.rows
        await app.pilot.click("TabBar", offset=(2, 0))
        assert app.pane.id == "models"


async def test_models_with_their_anatomy(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        assert "LlamaForCausalLM" in app.list[1]
        assert "134.5M" in app.list[1]
        for words in (
            "model.layers.N.mlp.down_proj.weight",
            "4 revisions after the base",
            "2026-03-01 12:00 UTC",
        ):
            assert words in app.detail
        assert app.line == "$ retcon model show starter"


async def test_keys_typed_in_a_burst_reach_the_new_tab(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        for key in "4jj":
            app.app.simulate_key(key)
        await app.press("j")
        assert app.pane.rows.key == BRANCH


async def test_enter_goes_in_and_the_ways_back_lead_out(catalog: Catalog) -> None:
    async with opened(catalog) as app:
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


async def test_heat_map_cursor_tells_layer_token_and_p(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("2", "G", "enter")
        assert "of · layer 23: p 0.7636 (+0.7513)" in app.screen
        assert "[hidden] mlp attn · p(Paris)" in app.screen
        await app.press("0", "k", "k", "g", "j", "j", "l", "l")
        assert "iffel* · layer 2: p 0.3" in app.screen
        assert "[]" in app.screen
        await app.press("$")
        assert "iffel* · layer 29:" in app.screen
        await app.press("asterisk")
        assert "of · layer 23:" in app.screen


async def test_kinds_of_a_trace(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("2", "G")
        for key, shown in (("tab", "hidden [mlp] attn"), ("tab", "hidden mlp [attn]"), ("tab", "[hidden] mlp attn"),
                           ("A", "hidden mlp [attn]"), ("M", "hidden [mlp] attn"), ("H", "[hidden] mlp attn")):  # fmt: skip
            await app.press(key)
            assert shown in app.detail
        await app.press("M")
        assert "with MLP of 10 layers restored" in app.detail


async def test_pages_of_a_traced_set(catalog: Catalog) -> None:
    async with opened(catalog, WIDE) as app:
        await app.press("2")
        assert "towers (3 facts)" in app.list[1]
        assert "average indirect effect over 2 facts" in app.detail
        assert "last · layer 23: AIE +0.75" in app.screen
        await app.press("n")
        assert "fact 1/3" in app.screen
        await app.press("n")
        assert "Not traced: the model's first choice is ' Germany'" in app.detail
        await app.press("n", "n")
        assert "fact 3/3" in app.screen
        await app.press("p", "p", "p", "p")
        assert "average indirect effect" in app.detail


async def test_a_cell_becomes_an_edit(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("2", "G", "enter", "g", "0", "l", "l", "l", "l", "l", "e")
        assert isinstance(app.app.screen, EditForm)
        values = app.app.screen.values()
        assert values["layer"] == "5"
        assert values["prompt"] == "The Eiffel Tower is located in the city of"
        assert (values["subject"], values["true"]) == ("The Eiffel Tower", "Paris")
        assert app.app.focused is app.app.screen.query_one("#target", Input)
        await app.press("enter")
        assert "give the new answer" in app.screen
        await app.type("Rome")
        assert "$ retcon edit run starter" in app.screen
        await app.press("enter")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.state, job.spec["revision"]) == ("edit", "queued", WITHOUT)
        assert job.spec["hparams"] == {"layers": [5]}
        assert job.spec["requests"][0]["prompt"] == "{} is located in the city of"
        assert f"job {job.id} queued" in app.line
        assert app.line.startswith("$ retcon edit run starter --prompt")


async def test_a_trace_form_is_checked_while_one_types(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("t")
        await app.type("The capital of France is")
        assert "the subject is empty" in app.screen
        await app.press("tab")
        await app.type("Germany")
        assert "is not in the prompt" in app.screen
        await app.press("enter")
        assert len(jobs_of(catalog)) == 5
        await app.type("France")
        assert "$ retcon trace run starter --prompt 'The capital of France is' --subject France" in app.screen
        await app.press("tab", "tab")
        await app.type("hidden,nonsense")
        assert "kinds are one or more of" in app.screen
        await app.type("mlp, hidden")
        await app.press("enter")
        spec = jobs_of(catalog)[0].spec
        assert (spec["model"], spec["subject"], spec["kinds"]) == ("starter", "France", ["hidden", "mlp"])


async def test_a_trace_of_a_set(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("t", "tab", "tab")
        await app.type("bridges")
        assert "There is no fact set 'bridges': there are towers" in app.screen.replace("\n", " ")
        await app.type("towers")
        await app.press("enter")
        assert jobs_of(catalog)[0].spec["facts"] == "towers"


async def test_adding_a_model(empty: Catalog) -> None:
    async with opened(empty) as app:
        await app.press("a")
        await app.type("HuggingFaceTB/SmolLM2-135M")
        assert "$ retcon model add HuggingFaceTB/SmolLM2-135M --name SmolLM2-135M" in app.screen
        await app.press("tab")
        await app.type("two words")
        await app.press("enter")
        assert "cannot name a model" in app.screen
        await app.type("small")
        await app.press("enter")
        job = jobs_of(empty)[0]
        assert (job.kind, job.spec["source"], job.spec["name"]) == (
            "model",
            "HuggingFaceTB/SmolLM2-135M",
            "small",
        )
        await app.press("escape", "5")
        assert "queued" in app.list[1]


async def test_a_form_can_be_left(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("4", "e", "escape")
        assert app.app.focused is app.pane.rows
        assert len(jobs_of(catalog)) == 5


async def test_history_is_a_graph_with_words(catalog: Catalog) -> None:
    async with opened(catalog, WIDE) as app:
        await app.press("4")
        shown = dict(zip((WITHOUT, FORD, BRANCH, ROME, BASE), app.list[1:], strict=True))
        assert "revert, head" in shown[WITHOUT]
        assert "live" in shown[FORD]
        assert "other branch" in shown[BRANCH]
        assert "taken out" in shown[ROME]
        assert "base" in shown[BASE]
        assert [row.cells[0] for row in app.pane.rows.rows] == ["↶", "●", "│ ◌", "○─╯", "◆"]
        await app.press("j")
        for words in ("rome at layer 5, seed 1", "loss 6.00 █", "0.050 in 7 steps", "4.62% of the matrix",
                      "ES 1.000   PS 0.500", "Toyota Camry is produced by → Ford"):  # fmt: skip
            assert words in app.detail


async def test_roll_back_asks_and_cancel_has_the_focus(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("4", "j", "z")
        assert isinstance(app.app.screen, Confirm)
        assert isinstance(app.app.focused, Button)
        assert app.app.focused.id == "cancel"
        assert f"$ retcon rollback starter {FORD}" in app.screen
        await app.press("enter")
        assert head_of(catalog) == WITHOUT
        await app.press("z", "n")
        assert head_of(catalog) == WITHOUT
        assert len(jobs_of(catalog)) == 5


async def test_roll_back_moves_the_head_and_starts_the_proof(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("4", "G", "z", "y")
        assert head_of(catalog) == BASE
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["revision"]) == ("verify", BASE)
        await app.until(lambda: "base, head" in app.list[5])
        assert "rolled back" in app.list[2]
        assert "$ retcon rollback starter" in app.line
        await app.press("z")
        assert "is the head of starter already" in app.line


async def test_taking_an_edit_out(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("4", "j", "j", "j", "x")
        assert "already taken out" in app.line
        await app.press("k", "x")
        assert "is not on the way" in app.line
        await app.press("k", "x", "tab", "enter")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["reverts"]) == ("revert", FORD)
        await app.press("at")
        assert f"$ retcon revert starter {FORD}" in app.screen
        assert f"job {job.id} queued" in app.screen


async def test_scoring_a_revision(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("4", "s")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["revision"]) == ("evaluation", WITHOUT)
        assert f"$ retcon eval run starter@{WITHOUT}" in app.line


async def test_jobs_say_how_they_ended(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("5")
        for line, words in zip(
            app.list[1:], ("– cancelled", "! interrupted", "✗ failed", "✓ done", "✓ done"), strict=True
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


async def test_resume_and_cancel(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("5", "j", "j", "r")
        assert jobs_of(catalog)[2].state == "queued"
        assert app.line.startswith("$ retcon job resume 3")
        await app.until(lambda: "queued" in app.list[3])
        await app.press("K")
        assert "Cancel job 3 (trace: starter · towers)?" in app.screen
        assert app.app.focused is not None
        assert app.app.focused.id == "cancel"
        await app.press("y")
        assert jobs_of(catalog)[2].state == "cancelled"
        await app.press("G", "K")
        assert "only a queued, waiting or running job" in app.line
        await app.press("r")
        assert "only an interrupted, failed or cancelled job" in app.line


async def test_what_another_process_writes_is_seen(catalog: Catalog) -> None:
    other = Catalog.open(catalog.home, migrate=False)
    async with opened(catalog, WIDE, toasts=True) as app:
        await app.press("5")
        assert "no job runs" in app.screen
        with alive(catalog, 6, 7):
            add_running(other)
            await app.until(lambda: "1 running" in app.screen and "61%" in app.list[2])
            assert "1 queued" in app.screen
            assert "1.9k tokens/s" in app.detail or "1.9k tokens/s" in app.screen
            with other.write() as session:
                rows.progress(session, 6, "x", done=80_000, total=100_000, unit="tokens", rate=1920, seconds_left=10,
                              activity="layer 5")  # fmt: skip
            await app.until(lambda: "80%" in app.list[2])
            with other.write() as session:
                rows.fail(session, 6, "x", "[b]out of memory[/b] on this device", "failure")
            await app.until(lambda: "✗ failed" in app.list[2])
            await app.until(lambda: "job 6 failed" in app.screen)
            assert "[b]out of memory[/b] on this device" in app.screen
    other.close()


async def test_a_job_whose_process_died_becomes_interrupted(catalog: Catalog) -> None:
    add_running(catalog)
    async with opened(catalog) as app:
        await app.press("5")
        await app.until(lambda: "interrupted" in app.list[1] and "interrupted" in app.list[2])
        assert "Press r" in app.detail


async def test_a_log_that_grows_is_followed(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("5", "j", "j")
        with control.log_path(catalog.home, 3).open("a") as log:
            log.write("one more line\x1b[2J\n")
        await app.until(lambda: "one more line·[2J" in app.detail)


@pytest.mark.parametrize(
    ("damage", "tab", "row"),
    [
        ("UPDATE model SET anatomy = '{broken'", "1", 1),
        ("UPDATE trace SET kinds = '[', id = id WHERE id = 2", "2", 1),
        ("UPDATE covariance SET created = 'never'", "3", 1),
        ("UPDATE revision SET requests = 'no' WHERE id = '77aa01c2d4'", "4", 2),
        ("UPDATE job SET spec = '{' WHERE id = 4", "5", 2),
    ],
)
async def test_a_hurt_row_hides_no_other(catalog: Catalog, damage: str, tab: str, row: int) -> None:
    with catalog.write() as session:
        session.connection().execute(text(damage))
    async with opened(catalog) as app:
        count = len(app.list)
        await app.press(tab)
        assert "damaged" in app.list[row]
        await app.press(*"j" * (row - 1))
        assert "damaged and cannot be read" in app.screen.replace("\n", " ") or "damaged" in app.detail
        await app.press("enter", "q", "e", "escape", "G")
        assert len(app.list) >= min(count, 2)


async def test_hurt_content_of_a_row_is_told(catalog: Catalog) -> None:
    for damage in (
        """UPDATE trace_result SET scores = '{"hidden": {"window": 1, "scores": [[1, 2]]}}' WHERE trace_id = 1""",
        """UPDATE revision SET figures = '{"requests": [{"losses": [3]}]}' WHERE id = '77aa01c2d4'""",
        """UPDATE evaluation SET metrics = '{"ES": 1}'""",
    ):
        with catalog.write() as session:
            session.connection().execute(text(damage))
    async with opened(catalog) as app:
        await app.press("2", "G")
        assert "its hidden scores do not fit its tokens" in app.detail
        await app.press("4", "j")
        assert "this row holds what it should not" in app.detail


async def test_text_of_others_is_no_markup(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.connection().execute(text("UPDATE revision SET message = '[red]x[/] \x1b[31m y\nz'"))
    async with opened(catalog) as app:
        await app.press("4", "j")
        assert "[red]x[/] ·[31m y⏎z" in app.list[2]
        assert "[red]x[/] ·[31m y⏎z" in app.detail
        assert "\x1b" not in app.screen


async def test_help_is_built_from_the_keys(catalog: Catalog) -> None:
    async with opened(catalog, WIDE) as app:
        await app.press("4", "question_mark")
        for words in ("move the head to this revision", "j ↓", "1 2 3 4 5", "copy the command", "these keys"):
            assert words in app.screen
        await app.press("question_mark")
        assert app.app.focused is app.pane.rows


async def test_copying_the_command(catalog: Catalog) -> None:
    async with opened(catalog) as app:
        await app.press("2", "Y")
        assert app.app.clipboard == "retcon trace show 2"
        assert "OSC 52" in app.line


async def test_the_narrow_and_the_wide_layout(catalog: Catalog) -> None:
    async with opened(catalog) as app:
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
    async with opened(catalog) as app:
        await app.press("5")
        assert len(app.pane.rows.rows) == 500
        await app.press("G")
        assert app.pane.rows.cursor == 499
        assert app.pane.rows.scroll_y > 400
        await app.press("ctrl+u", "g")
        assert (app.pane.rows.cursor, app.pane.rows.scroll_y) == (0, 0)


def test_the_app_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, asyncio\n"
        "from retcon.tui.app import RetconApp\n"
        "from retcon.store.catalog import Catalog\n"
        "async def main():\n"
        "    app = RetconApp(Catalog.open())\n"
        "    async with app.run_test() as pilot:\n"
        "        for key in '2345':\n"
        "            await pilot.press(key)\n"
        "        await pilot.press('e', 'escape')\n"
        "asyncio.run(main())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"RETCON_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("term", ["dumb", "", "xterm-256color"])
def test_no_terminal_no_app(tmp_path: Path, term: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from retcon.tui.app import run; run()"], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, env=os.environ | {"TERM": term, "RETCON_HOME": str(tmp_path / "home")}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "retcon --help" in done.stderr
    assert not (tmp_path / "home").exists()


async def test_colour_is_not_needed(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(catalog) as app:
        await app.press("2", "G", "enter")
        heat = app.pane.detail
        assert isinstance(heat, HeatMap)
        styles = {str(segment.style) for y in range(1, 11) for segment in heat.render_line(y)}
        assert not any("#" in style for style in styles)
        assert "█" in app.detail
