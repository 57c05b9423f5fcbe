"""The prompt, deep links and the palette; resuming, copying, counting, removing."""

from pathlib import Path

import pytest
from textual.command import CommandPalette

from retcon.store.catalog.catalog import Catalog
from retcon.store.errors import InputError
from retcon.tests.helpers.app_catalog import BRANCH, WITHOUT, add_running, hold_job_locks, jobs_of
from retcon.tests.helpers.app_pilot import WIDE, AppPilot, open_app
from retcon.tui.app.screens.base.confirm import Confirm
from retcon.tui.app.screens.jobs.log_view import LogView
from retcon.tui.app.screens.shell.output import Output
from retcon.tui.app.screens.shell.terminal import notice_sequence
from retcon.tui.app.screens.shell.typing import COMMAND_WORDS, split
from retcon.tui.app.widgets.bars import TabBar
from retcon.tui.deep_links import DeepLink, parse_deep_link


async def typed(app: AppPilot, words: str) -> None:
    await app.press("colon")
    await app.type(words)
    await app.press("enter")


async def test_prompt_opens_a_tab_with_filter_or_row(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await typed(app, "jobs state:failed")
        assert app.pane.id == "jobs"
        assert list(app.pane.rows.keys) == [3]
        await typed(app, f"edits/{BRANCH}")
        assert (app.pane.id, app.pane.rows.key) == ("edits", BRANCH)
        await typed(app, "models/starter")
        assert (app.pane.id, app.pane.rows.key) == ("models", 1)
        await typed(app, "q")
        assert not app.app.is_running


async def test_prompt_runs_commands(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await typed(app, "retcon job list")
        assert isinstance(app.app.screen, Output)
        assert "$ retcon job list" in app.screen
        assert "the disk is full" in app.screen
        assert "✓ done" in app.screen
        await app.press("q")
        assert app.line.startswith("$ retcon job list  ✓ done")
        await typed(app, "job show 99")
        assert "There is no job 99" in app.screen
        assert "✗ exit code 2" in app.screen
        await app.press("q", "at")
        assert "$ retcon job show 99" in app.screen
        await app.press("q", "colon", "up")
        assert app.app.focused is not None
        assert app.app.focused.value == "job show 99"  # type: ignore[attr-defined]


async def test_invalid_command_line_is_reported(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await typed(app, "job show '")
        assert "not a valid command line" in app.line
        await typed(app, "ui jobs")
        assert "the app is open already" in app.line
        await app.press("colon", "backspace")
        assert app.app.focused is app.pane.rows


def test_splits_command_lines() -> None:
    assert split("retcon trace show 1") == ["trace", "show", "1"]
    assert split("help job") == ["job", "--help"]
    assert {"trace", "job", "undo"} < set(COMMAND_WORDS)


@pytest.mark.parametrize(
    "link", ["jobs/3", "traces/1", "covariances/1", f"edits/{WITHOUT}", "models/starter", "edits"]
)
async def test_deep_link_opens_its_row(catalog: Catalog, link: str) -> None:
    async with open_app(catalog, link=link) as app:
        noun, _, key = link.partition("/")
        assert app.pane.id == noun
        if noun != "models" and key:
            assert str(app.pane.rows.key) == key


def test_parses_deep_links() -> None:
    assert parse_deep_link("jobs/12") == DeepLink("jobs", "12")
    assert parse_deep_link("cov") == DeepLink("covariances")
    for error_text in ("", "nothing", "jobs/x", "/3"):
        with pytest.raises(InputError):
            parse_deep_link(error_text)


async def test_palette_finds_keys_by_description(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("4", "ctrl+p")
        assert isinstance(app.app.screen, CommandPalette)
        await app.type("evaluate this")
        await app.until(lambda: "evaluate this revision" in app.screen)
        await app.press("enter")
        await app.settle()
        assert jobs_of(catalog)[0].kind == "evaluation"


async def test_offers_to_resume_interrupted_jobs(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        assert "! 1 interrupted: R resumes" in app.screen
        await app.press("R")
        assert isinstance(app.app.screen, Confirm)
        assert "job 4: revert starter" in app.words
        await app.press("y")
        assert jobs_of(catalog)[1].state == "queued"
        await app.until(lambda: "interrupted" not in app.screen.splitlines()[0])
        await app.press("R")
        assert "there are no interrupted jobs" in app.line


async def test_ended_jobs_are_counted_on_the_tab(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        with hold_job_locks(catalog, 6, 7):
            add_running(catalog)
            await app.until(lambda: "1 running" in app.screen)
            other = Catalog.open(catalog.home, migrate=False)
            with other.write() as session:
                for job in jobs_of(other)[:1]:
                    job.state = "done"
                    session.merge(job)
            await app.until(lambda: "5 Jobs +1" in app.app.screen_stack[1].query_one(TabBar).render().plain)
            other.close()
            await app.press("5")
            assert "+1" not in app.screen.splitlines()[1]


def test_notices_contain_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMUX", "TERM_PROGRAM", "VTE_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert notice_sequence("job 1 done; \x1b]0;x\x07") == "\x1b]9;retcon: job 1 done, ·]0,x·\x07"
    monkeypatch.setenv("TERM", "foot")
    assert notice_sequence("a").startswith("\x1b]777;notify;retcon;a")
    monkeypatch.setenv("TMUX", "x")
    assert notice_sequence("a").startswith("\x1bPtmux;\x1b\x1b]777")


async def test_log_is_followed_and_searched(catalog: Catalog) -> None:
    path = catalog.home.job_log(3)
    path.write_text("\n".join(f"step {number} of the work" for number in range(300)) + "\n")
    async with open_app(catalog) as app:
        await app.press("5", "j", "j", "L")
        assert isinstance(app.app.screen, LogView)
        assert "step 299" in app.screen
        with path.open("a") as log:
            log.write("half a li")
        await app.until(lambda: "half a li" in app.screen)
        with path.open("a") as log:
            log.write("ne, \x1b[31mred\n")
        await app.until(lambda: "half a line, ·[31mred" in app.screen)
        await app.press("slash")
        await app.type("STEP 12")
        await app.press("enter")
        assert "1 of 11 found" in app.screen
        assert "step 12 of" in app.screen
        await app.press("n", "n")
        assert "step 121 of" in app.screen
        assert "not following" in app.screen
        await app.press("f", "q")
        assert app.app.focused is app.pane.rows


async def test_copying_reports_the_target(catalog: Catalog, tmp_path: Path) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("4", "y")
        assert app.app.clipboard == WITHOUT
        file = catalog.home.root / "copied.txt"
        assert file.read_text() == f"{WITHOUT}\n"
        assert file.stat().st_mode & 0o777 == 0o600
        # With a deep folder the end of the line is cut.
        assert str(file)[:30] in app.line
        await app.press("1", "y")
        assert app.app.clipboard == "starter"


async def test_removal_is_confirmed_and_reported(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("5", "j", "j", "D")
        assert "Remove job 3 (trace: starter · towers) and its log" in app.words
        assert "cannot be undone" in app.words
        assert app.app.focused is not None
        assert app.app.focused.id == "cancel"
        await app.press("y")
        await app.until(lambda: "Removed job 3" in app.line)
        await app.until(lambda: len(app.list) == 4)
        # The list moved to another row; the outcome stays visible.
        assert "Removed job 3" in app.line
        assert not catalog.home.job_log(3).exists()
        assert len(jobs_of(catalog)) == 4
        await app.press("1", "D")
        assert "4 revisions, 2 traces and 1 covariance, 538.1 MB" in app.words
        assert "This cannot be undone" in app.words
        await app.press("n")


async def test_list_or_detail_alone(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("5", "plus")
        assert app.pane.rows.region.height > 15
        await app.press("enter")
        assert not app.pane.query_one(".list").display
        await app.press("q", "plus")
        assert app.pane.rows.region.height < 10
