"""What the app looks like, cell by cell. After a change that is meant: `pytest --snapshot-update` and look at each."""

from collections.abc import Callable

import pytest
from retcon.store.catalog import Catalog
from retcon.tui.app import RetconApp
from textual.pilot import Pilot

from .app_catalog import add_running, add_unfinished, alive
from .app_pilot import NARROW, WIDE, Driven

Compare = Callable[..., bool]


def press(*keys: str) -> Callable[[Pilot[None]], object]:
    """Press keys as a person does: each when the one before has been answered."""

    async def go(pilot: Pilot[None]) -> None:
        await pilot.app.workers.wait_for_complete()
        for key in keys:
            await pilot.press(key)
            await pilot.app.workers.wait_for_complete()
        await Driven(pilot.app, pilot).settle()

    return go


@pytest.mark.parametrize(
    ("size", "keys"),
    [
        pytest.param(NARROW, (), id="models-80x24"),
        pytest.param(NARROW, ("2", "G", "enter"), id="heat-map-80x24"),
        pytest.param(WIDE, ("2",), id="average-140x40"),
        pytest.param(NARROW, ("2", "enter", "c"), id="curves-80x24"),
        pytest.param(NARROW, ("2", "L"), id="locate-80x24"),
        pytest.param(NARROW, ("2", "t"), id="trace-form-80x24"),
        pytest.param(NARROW, ("4", "j", "b"), id="roll-back-80x24"),
        pytest.param(WIDE, ("4", "j", "enter"), id="edits-140x40"),
        pytest.param(NARROW, ("2", "G", "enter", "e"), id="edit-form-80x24"),
        pytest.param(WIDE, ("4", "question_mark"), id="help-140x40"),
    ],
)
def test_looks(catalog: Catalog, snap_compare: Compare, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    assert snap_compare(RetconApp(catalog), terminal_size=size, run_before=press(*keys))


@pytest.mark.parametrize("size", [pytest.param(NARROW, id="80x24"), pytest.param(WIDE, id="140x40")])
def test_jobs_look(catalog: Catalog, snap_compare: Compare, size: tuple[int, int]) -> None:
    add_running(catalog)
    with alive(catalog, 6, 7):
        assert snap_compare(RetconApp(catalog), terminal_size=size, run_before=press("5", "j"))


def test_estimates_look(catalog: Catalog, snap_compare: Compare) -> None:
    add_unfinished(catalog, 3)
    assert snap_compare(RetconApp(catalog), terminal_size=NARROW, run_before=press("2", "enter"))


def test_an_empty_catalog_looks(empty: Catalog, snap_compare: Compare) -> None:
    assert snap_compare(RetconApp(empty), terminal_size=NARROW, run_before=press())
