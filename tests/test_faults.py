"""The fault benchmarks in short: what they count must be nothing here too."""

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof


def test_many_writers_and_readers_meet_no_locked_database(tmp_path: Path) -> None:
    from retcon.benchmarks.fault_writers import many_writers

    found = many_writers(tmp_path / "home", seconds=4, writers=8, readers=3)
    assert (found["locked"], found["errors"], found["integrity"]) == (0, {}, "ok")
    # All of them got on, and each row holds what its writer wrote last.
    assert found["fewest_writes_of_one"] > 0 and found["reads"] > 0 and found["progress_kept"]


def test_this_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wait for each other they would meet it."""
    from retcon.benchmarks.fault_writers import many_writers

    (tmp_path / "sitecustomize.py").write_text(
        "import retcon.store.catalog.connection as connection\nconnection.BUSY_SECONDS = 0.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = many_writers(tmp_path / "home", seconds=4, writers=8, readers=3)
    assert found["locked"] > 0


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_power_and_kills_at_system_calls(tmp_path: Path) -> None:
    from retcon.benchmarks.fault_power import NoStrace, cut_at_every_call

    try:
        found = cut_at_every_call(kills=8)
    except NoStrace as error:
        pytest.skip(str(error))
    assert found["promised"] == 2 and found["whole_at_the_end"]
    assert found["calls"] > 50 and found["states"] > 500 and found["broken"] == 0
    assert found["kills"] >= 8 and found["broken_after_kill"] == 0
