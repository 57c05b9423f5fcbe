"""Changes by other processes, and unreadable data: both appear, and the app keeps running."""

import pytest
from sqlalchemy import text

from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.app_catalog import add_running, hold_job_locks
from retcon.tests.helpers.app_pilot import WIDE, open_app


async def test_changes_of_other_processes_appear(catalog: Catalog) -> None:
    other = Catalog.open(catalog.home, migrate=False)
    async with open_app(catalog, WIDE, toasts=True) as app:
        await app.press("5")
        assert "no jobs running" in app.screen
        with hold_job_locks(catalog, 6, 7):
            add_running(other)
            await app.until(lambda: "1 running" in app.screen and "61%" in app.list[1])
            assert "1 queued" in app.screen
            assert app.pane.rows.key == 5, "the cursor stays on its row"
            await app.press("k")
            assert "1.9k tokens/s" in app.detail
            with other.write() as session:
                rows.save_progress(session, 6, "x", done=80_000, total=100_000, unit="tokens", rate=1920,
                                   seconds_left=10, activity="layer 5")  # fmt: skip
            await app.until(lambda: "80%" in app.list[1])
            with other.write() as session:
                rows.fail(session, 6, "x", "[b]out of memory[/b] on this device", "failure")
            await app.until(lambda: "✗ failed" in app.list[1])
            await app.until(lambda: "job 6 failed" in app.screen)
            assert "[b]out of memory[/b] on this device" in app.screen
    other.close()


async def test_job_of_a_dead_process_becomes_interrupted(catalog: Catalog) -> None:
    add_running(catalog)
    async with open_app(catalog) as app:
        await app.press("5")
        await app.until(lambda: "interrupted" in app.list[0] and "interrupted" in app.list[1])
        assert "Press r" in app.detail


async def test_growing_log_is_followed(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("5", "j", "j")
        with catalog.home.job_log(3).open("a") as log:
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
async def test_unreadable_row_hides_no_other(catalog: Catalog, damage: str, tab: str, row: int) -> None:
    with catalog.write() as session:
        session.connection().execute(text(damage))
    async with open_app(catalog) as app:
        count = len(app.list)
        await app.press(tab)
        assert "unreadable" in app.list[row - 1]
        await app.press(*"j" * (row - 1))
        assert "this row is unreadable" in app.words or "unreadable" in app.detail
        await app.press("enter", "q", "e", "escape", "G")
        assert len(app.list) >= min(count, 2)


async def test_invalid_content_of_a_row_is_reported(catalog: Catalog) -> None:
    for damage in (
        """UPDATE trace_result SET scores = '{"hidden": {"window": 1, "scores": [[1, 2]]}}' WHERE trace_id = 1""",
        """UPDATE revision SET statistics = '{"requests": [{"losses": [3]}]}' WHERE id = '77aa01c2d4'""",
        """UPDATE evaluation SET metrics = '{"ES": 1}'""",
    ):
        with catalog.write() as session:
            session.connection().execute(text(damage))
    async with open_app(catalog) as app:
        await app.press("2", "G")
        assert "the hidden scores do not match the tokens" in app.detail
        await app.press("4", "j")
        assert "this row holds invalid data" in app.detail


async def test_foreign_text_is_not_markup(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.connection().execute(text("UPDATE revision SET message = '[red]x[/] \x1b[31m y\nz'"))
    async with open_app(catalog) as app:
        await app.press("4", "j")
        assert "[red]x[/] ·[31m y⏎z" in app.list[1]
        assert "[red]x[/] ·[31m y⏎z" in app.detail
        assert "\x1b" not in app.screen
