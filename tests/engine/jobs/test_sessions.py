"""Where logind kills what a user leaves behind, jobs are started in a scope of the user's own systemd."""

from pathlib import Path

import pytest
from retcon.engine.jobs import control, sessions
from retcon.engine.jobs.specs import VerifySpec
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home


@pytest.fixture
def logind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a box whose logind kills; the user has no systemd yet."""
    etc = tmp_path / "etc"
    (etc / "logind.conf.d").mkdir(parents=True)
    (etc / "logind.conf").write_text("[Login]\n#KillUserProcesses=no\nHandlePowerKey=ignore\n")
    (etc / "logind.conf.d" / "50-site.conf").write_text("[Login]\nKillUserProcesses=yes\n")
    monkeypatch.setattr(sessions, "_ETC", etc)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return etc


def give_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for systemd-run that notes what it was asked and then runs it, as the real one does with --scope."""
    runtime, programs, asked = tmp_path / "run", tmp_path / "bin", tmp_path / "asked"
    (runtime / "systemd").mkdir(parents=True)
    programs.mkdir()
    script = programs / "systemd-run"
    script.write_text(
        f'#!/bin/sh\necho "$@" > {asked}\nwhile [ "${{1#--}}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return asked


def test_nothing_is_needed_where_logind_lets_them_live(logind: Path) -> None:
    (logind / "logind.conf.d" / "99-late.conf").write_text("[Login]\nKillUserProcesses=no\n")
    assert sessions.build_scope_command() == []
    assert sessions.find_logout_warning() is None


def test_without_a_systemd_of_their_own_they_die_and_that_is_said(logind: Path) -> None:
    assert sessions.build_scope_command() == []
    said = sessions.find_logout_warning()
    assert said is not None and "loginctl enable-linger" in said


def test_a_job_is_started_in_a_scope(logind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = give_systemd(tmp_path, monkeypatch)
    catalog = Catalog.open(Home(tmp_path / "home"))
    submitted = control.submit(catalog, VerifySpec(model="none"))
    ended = control.follow(catalog, submitted.id or 0)
    assert (ended.state, ended.error_kind) == ("failed", "input")
    assert asked.read_text().startswith("--user --scope --quiet --collect ")
    assert f"-m retcon.engine.jobs.worker {submitted.id} " in asked.read_text()
    said = sessions.find_logout_warning()
    assert said is not None and "enable-linger" in said, (
        "a scope goes with the user's systemd, unless that lingers"
    )
    catalog.close()
