"""The catalogs that released versions wrote open in this one, with all their rows."""

import sqlite3
import zipfile
from pathlib import Path

import pytest

from retcon.store.catalog.connection import HEAD
from retcon.tests.helpers.command_line import Retcon

RELEASED = sorted((Path(__file__).parent / "released").glob("*.zip"), key=lambda path: path.stem)
LISTS = (
    "model list", "history tiny", "facts list", "trace list", "covariance list", "eval list", "sweep list",
    "passage list", "job list",
)  # fmt: skip
SHOWS = (
    "model show tiny", "facts show facts", "trace show 1", "trace show 2", "covariance show 1", "eval show 1",
    "sweep show 1", "passage show 1", "job show 1",
)  # fmt: skip


def test_catalog_of_first_release_is_checked_in() -> None:
    assert "0.1.0" in [path.stem for path in RELEASED]


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Retcon:
    """The command line on the unpacked home of a release."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(home)
    return Retcon(home)


def test_released_catalog_migrates_and_is_sound(released: Retcon) -> None:
    with sqlite3.connect(released.home / "catalog.db") as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if table not in ("alembic_version", "app_version")
        }
    assert all(counts[table][0] for table in ("model", "revision", "trace_result", "evaluation", "passage"))
    assert released.json("catalog", "check")["sound"]
    with sqlite3.connect(released.home / "catalog.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (HEAD,)
        for table, count in counts.items():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == count, table


def test_released_catalog_answers_every_reading_command(released: Retcon) -> None:
    for command in (*LISTS, *SHOWS):
        released.json(*command.split())
        released(*command.split())
