"""Catalogs for the tests of the app: a new one, and a filled one."""

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
    """A new catalog. Jobs get a row but no process."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TMUX", raising=False)
    # The lock of the missing process stays held, as if the process ran.
    monkeypatch.setattr(control, "start_worker", lambda home, job_id, lock: os.dup(lock))
    # The real value changes all the time.
    monkeypatch.setattr(models, "memory_free", lambda: 8_000_000_000)
    return Catalog.open(Home(tmp_path / "retcon"))


@pytest.fixture
def catalog(empty: Catalog) -> Catalog:
    """A catalog with a model, its history, traces, a covariance, scores and jobs."""
    fill(empty)
    return empty
