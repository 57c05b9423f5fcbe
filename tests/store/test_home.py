"""The home folder: its location and its access rights."""

import os
import stat
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.errors import InputError
from retcon.store.home import Home, home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_home_location(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETCON_HOME", str(tmp_path / "mine"))
    assert home() == tmp_path / "mine"
    monkeypatch.delenv("RETCON_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert home() == tmp_path / "data" / "retcon"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".local" / "share" / "retcon"


def test_relative_home_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETCON_HOME", "here")
    assert home() == tmp_path / "here"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        place = Home(tmp_path / "home")
        catalog = Catalog.open(place)
        with catalog.write() as session:
            session.merge(catalog.artifacts.put_bytes(b"data"))
        for folder in (place.root, place.artifacts, place.models, place.logs, place.locks, place.backups):
            assert mode(folder) == 0o700, folder
        files = [path for path in place.root.rglob("*") if path.is_file()]
        assert {"catalog.db", "catalog.db-wal", "catalog.db-shm"} <= {path.name for path in files}
        for path in files:
            assert mode(path) == 0o600, path
        catalog.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("bad", [0o770, 0o707, 0o777])
def test_writable_home_is_rejected(tmp_path: Path, bad: int) -> None:
    root = tmp_path / "home"
    root.mkdir()
    root.chmod(bad)
    with pytest.raises(InputError, match="chmod 700"):
        Home(root).prepare()


@pytest.mark.parametrize("inside", ["artifacts", "models", "catalog.db"])
def test_writable_folder_is_rejected(tmp_path: Path, inside: str) -> None:
    Catalog.open(Home(tmp_path / "home")).close()
    path = tmp_path / "home" / inside
    path.chmod(0o660 if path.is_file() else 0o770)
    with pytest.raises(InputError, match=f"{inside} can be written by other users"):
        Catalog.open(Home(tmp_path / "home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("inside", ["", "artifacts", "catalog.db"])
def test_foreign_folder_is_rejected(tmp_path: Path, inside: str) -> None:
    Catalog.open(Home(tmp_path / "home")).close()
    os.chown(tmp_path / "home" / inside, 65534, -1)
    with pytest.raises(InputError, match=r"belongs to another user \(uid 65534"):
        Catalog.open(Home(tmp_path / "home"))


def test_home_of_another_user_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        Home(tmp_path / "home").prepare()


def test_file_as_home_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(InputError, match="cannot be used as the home folder"):
        Home(tmp_path / "home").prepare()


def test_existing_home_keeps_its_mode(tmp_path: Path) -> None:
    root = tmp_path / "home"
    root.mkdir()
    root.chmod(0o750)
    Home(root).prepare()
    assert mode(root) == 0o750
