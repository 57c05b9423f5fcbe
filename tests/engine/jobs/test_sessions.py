"""Jobs start in a scope of the user's systemd if logind kills processes at logout."""

from pathlib import Path

import pytest

from retcon.engine.jobs import control, sessions
from retcon.engine.jobs.specs import VerifySpec
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home


@pytest.fixture
def logind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a logind that kills at logout, for a user without a systemd instance."""
    etc = tmp_path / "etc"
    (etc / "logind.conf.d").mkdir(parents=True)
    (etc / "logind.conf").write_text("[Login]\n#KillUserProcesses=no\nHandlePowerKey=ignore\n")
    (etc / "logind.conf.d" / "50-site.conf").write_text("[Login]\nKillUserProcesses=yes\n")
    monkeypatch.setattr(sessions, "SYSTEMD_CONFIG", etc)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return etc


def give_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake systemd-run that records its arguments and then runs the command, like the real one with --scope."""
    runtime, programs, arguments = tmp_path / "run", tmp_path / "bin", tmp_path / "asked"
    (runtime / "systemd").mkdir(parents=True)
    programs.mkdir()
    script = programs / "systemd-run"
    script.write_text(
        f'#!/bin/sh\necho "$@" > {arguments}\nwhile [ "${{1#--}}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return arguments


def test_no_scope_without_kill_at_logout(logind: Path) -> None:
    (logind / "logind.conf.d" / "99-late.conf").write_text("[Login]\nKillUserProcesses=no\n")
    assert sessions.build_scope_command() == []
    assert sessions.find_logout_warning() is None


def test_a_warning_without_a_user_systemd(logind: Path) -> None:
    assert sessions.build_scope_command() == []
    warning = sessions.find_logout_warning()
    assert warning is not None and "loginctl enable-linger" in warning


def test_a_job_starts_in_a_scope(logind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = give_systemd(tmp_path, monkeypatch)
    catalog = Catalog.open(Home(tmp_path / "home"))
    submitted = control.submit(catalog, VerifySpec(model="none"))
    ended = control.follow(catalog, submitted.id or 0)
    assert (ended.state, ended.error_kind) == ("failed", "input")
    assert arguments.read_text().startswith("--user --scope --quiet --collect ")
    assert f"-m retcon.engine.jobs.worker {submitted.id} " in arguments.read_text()
    warning = sessions.find_logout_warning()
    assert warning is not None and "enable-linger" in warning, (
        "a scope ends with the user's systemd, unless linger is enabled"
    )
    catalog.close()
