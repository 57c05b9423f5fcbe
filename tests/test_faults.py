"""Short runs of the fault benchmarks: their counts of faults must be zero here too."""

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof


def test_many_writers_meet_no_locked_database(tmp_path: Path) -> None:
    from retcon.benchmarks.faults.many_writers import measure_writers

    figures = measure_writers(tmp_path / "home", seconds=4, writers=8, readers=3)
    assert (figures["locked"], figures["errors"], figures["integrity"]) == (0, {}, "ok")
    assert figures["fewest_writes_per_writer"] > 0 and figures["reads"] > 0 and figures["progress_matches"]


def test_writers_without_busy_timeout_meet_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterexample: without SQLite's busy timeout the benchmark counts errors."""
    from retcon.benchmarks.faults.many_writers import measure_writers

    (tmp_path / "sitecustomize.py").write_text(
        "import retcon.store.catalog.connection as connection\nconnection.BUSY_SECONDS = 0.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    try:
        figures = measure_writers(tmp_path / "home", seconds=4, writers=8, readers=3)
    except (BrokenPipeError, ValueError):
        return  # a process met the lock already when it opened the catalog, and ended
    assert figures["locked"] > 0


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_power_cuts_and_kills_leave_a_sound_catalog() -> None:
    from retcon.benchmarks.faults.power_cut import NoStrace, cut_at_every_call

    try:
        figures = cut_at_every_call(kills=8)
    except NoStrace as error:
        pytest.skip(str(error))
    assert figures["committed"] == 2 and figures["is_intact_at_end"]
    assert figures["calls"] > 50 and figures["states"] > 500 and figures["broken"] == 0
    assert figures["kills"] >= 8 and figures["broken_after_kill"] == 0
