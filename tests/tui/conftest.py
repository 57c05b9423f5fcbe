"""Catalogs for the tests of the app: a new one, and one that holds something of everything."""

import os
from pathlib import Path

import pytest
from retcon.engine.jobs import control
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home
from retcon.tests.helpers.app_catalog import fill
from retcon.tui.app.screens.models import pane as models


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A new catalog; jobs get their row and no process."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TMUX", raising=False)
    # The lock that the process would be given stays held, as if it were there.
    monkeypatch.setattr(control, "start_worker", lambda home, job_id, lock: os.dup(lock))
    # What is free differs from one look to the next.
    monkeypatch.setattr(models, "memory_free", lambda: 8_000_000_000)
    return Catalog.open(Home(tmp_path / "retcon"))


@pytest.fixture
def catalog(empty: Catalog) -> Catalog:
    """A catalog with a model, its history, traces, a covariance, scores and jobs."""
    fill(empty)
    return empty
