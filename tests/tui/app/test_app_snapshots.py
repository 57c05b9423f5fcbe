"""Snapshots of the screen. After an intended change run `pytest --snapshot-update` and inspect each."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from textual.pilot import Pilot

from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.app_catalog import add_running, add_unfinished, hold_job_locks
from retcon.tests.helpers.app_pilot import MIDDLE, NARROW, WIDE, AppPilot
from retcon.tui.app.app import RetconApp

Compare = Callable[..., bool]


def press(*keys: str) -> Callable[[Pilot[None]], object]:
    """Press keys one at a time, each after the app has handled the previous one."""

    async def go(pilot: Pilot[None]) -> None:
        await pilot.app.workers.wait_for_complete()
        for key in keys:
            await pilot.press(key)
            await pilot.app.workers.wait_for_complete()
        await AppPilot(pilot.app, pilot).settle()

    return go


SIZES = [pytest.param(NARROW, id="80x24"), pytest.param(MIDDLE, id="100x30"), pytest.param(WIDE, id="140x40")]


@pytest.mark.parametrize("size", [SIZES[0], SIZES[2]])
@pytest.mark.parametrize(
    "tab", ["1", "2", "3", "4", "6"], ids=["models", "traces", "covariances", "edits", "passages"]
)
def test_pane_snapshot(catalog: Catalog, snap_compare: Compare, size: tuple[int, int], tab: str) -> None:
    assert snap_compare(RetconApp(catalog), terminal_size=size, run_before=press(tab))


@pytest.mark.parametrize(
    ("size", "keys"),
    [
        pytest.param(NARROW, ("2", "G", "enter"), id="heat-map-80x24"),
        pytest.param(MIDDLE, ("2", "G", "enter"), id="heat-map-100x30"),
        pytest.param(NARROW, ("2", "enter", "c"), id="curves-80x24"),
        pytest.param(NARROW, ("2", "L"), id="locate-80x24"),
        pytest.param(NARROW, ("2", "t"), id="trace-form-80x24"),
        pytest.param(NARROW, ("4", "j", "b"), id="roll-back-80x24"),
        pytest.param(WIDE, ("4", "j", "enter"), id="edits-140x40"),
        pytest.param(NARROW, ("2", "G", "enter", "e"), id="edit-form-80x24"),
        pytest.param(WIDE, ("4", "question_mark"), id="help-140x40"),
        pytest.param(
            NARROW, ("5", "slash", "s", "t", "a", "t", "e", "colon", "d", "enter"), id="filter-80x24"
        ),
        pytest.param(NARROW, ("5", "o", "O", "space", "plus"), id="order-and-marks-80x24"),
        pytest.param(NARROW, ("colon", "j", "o", "b"), id="command-80x24"),
        pytest.param(NARROW, ("4", "b"), id="refused-80x24"),
        pytest.param(NARROW, ("4", "M"), id="retention-80x24"),
        pytest.param(NARROW, ("5", "j", "j", "L"), id="log-80x24"),
    ],
)
def test_screen_snapshot(
    catalog: Catalog, snap_compare: Compare, size: tuple[int, int], keys: tuple[str, ...]
) -> None:
    assert snap_compare(RetconApp(catalog), terminal_size=size, run_before=press(*keys))


@pytest.mark.parametrize("size", SIZES)
def test_jobs_snapshot(catalog: Catalog, snap_compare: Compare, size: tuple[int, int]) -> None:
    add_running(catalog)
    with hold_job_locks(catalog, 6, 7):
        assert snap_compare(RetconApp(catalog), terminal_size=size, run_before=press("5", "j"))


def test_estimates_snapshot(catalog: Catalog, snap_compare: Compare) -> None:
    add_unfinished(catalog, 3)
    assert snap_compare(RetconApp(catalog), terminal_size=NARROW, run_before=press("2", "enter"))


def test_empty_catalog_snapshot(empty: Catalog, snap_compare: Compare) -> None:
    assert snap_compare(RetconApp(empty), terminal_size=NARROW, run_before=press())


def test_no_color_snapshot(catalog: Catalog, snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(RetconApp(catalog), terminal_size=NARROW, run_before=press("2", "G", "enter"))


def test_unreadable_row_snapshot(catalog: Catalog, snap_compare: Compare) -> None:
    with catalog.write() as session:
        session.connection().execute(text("UPDATE revision SET hparams = '{' WHERE id = '77aa01c2d4'"))
    assert snap_compare(RetconApp(catalog), terminal_size=NARROW, run_before=press("4", "j"))


def test_read_only_snapshot(catalog: Catalog, snap_compare: Compare) -> None:
    assert snap_compare(RetconApp(catalog, readonly=True), terminal_size=NARROW, run_before=press("4", "x"))
