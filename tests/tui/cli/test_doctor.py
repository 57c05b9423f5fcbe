"""`retcon doctor`: a report from a valid or a corrupt home, without secrets."""

import sqlite3
from pathlib import Path

import pytest

from retcon.store import home
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home
from retcon.store.maintenance import health
from retcon.store.maintenance.health import wal_is_safe
from retcon.tests.helpers.command_line import Retcon
from retcon.tui.cli import environment
from retcon.tui.cli.commands import doctor

SECRET = "hf_marked0123456789"


@pytest.fixture
def retcon(tmp_path: Path) -> Retcon:
    return Retcon(tmp_path / "box" / "home")


def test_report_contains_no_secret(retcon: Retcon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "box"
    secrets = {
        "HF_TOKEN": SECRET, "HF_ENDPOINT": f"https://me:{SECRET}@hub.example", "https_proxy": f"http://{SECRET}@proxy",
        "OPENAI_API_KEY": SECRET, "RETCON_SOMETHING": SECRET, "HOME": str(user), "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    said = retcon.say("doctor", **secrets)
    assert said.code == 0, said.err
    for name in (
        "torch",
        "transformers",
        "textual",
        "sqlite",
        "devices: cpu",
        "catalog: quick check",
        "home: disk",
    ):
        assert name in said.out
    report = retcon.json("doctor", **secrets)
    assert report["hub"]["token"] == "set"
    assert {"HF_TOKEN", "HF_ENDPOINT", "https_proxy", "OPENAI_API_KEY"} <= set(report["environment"]["set"])
    assert report["home"]["path"] == "~/home" and report["home"]["mode"] == "0700"
    assert report["devices"]["cpu"] == "free"
    assert report["catalog"]["quick check"] == "ok"
    for text in (said.out, said.err, str(report)):
        assert SECRET not in text and str(user) not in text
    assert retcon.json("doctor")["hub"]["token"] == "none"


def test_corrupt_catalog_is_reported(retcon: Retcon) -> None:
    Catalog.open(Home(retcon.home)).close()
    whole = (retcon.home / "catalog.db").read_bytes()
    (retcon.home / "catalog.db").write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    said = retcon.say("doctor")
    assert said.code == 1 and "Traceback" not in said.err
    assert "corrupt" in said.out and "torch" in said.out
    assert not retcon.say("doctor", "--json").out.startswith("Error")


def test_unusable_home_is_reported(retcon: Retcon) -> None:
    retcon.home.parent.mkdir()
    retcon.home.write_text("a file")
    said = retcon.say("doctor")
    assert said.code == 1
    assert "! " in said.out and "cannot be used as the home folder" in said.out


@pytest.mark.parametrize(
    ("kind", "told"),
    [("nfs4", "is on nfs4"), ("cifs", "is on cifs"), ("overlay", "container's own layer"), ("tmpfs", "on tmpfs")],
)  # fmt: skip
def test_unsafe_filesystem_is_reported(
    retcon: Retcon, monkeypatch: pytest.MonkeyPatch, kind: str, told: str
) -> None:
    monkeypatch.setattr(home, "filesystem", lambda _path: kind)
    monkeypatch.setattr(doctor, "filesystem", lambda _path: kind)
    report = retcon.json("doctor")
    assert any(told in line for line in report["warnings"]), report["warnings"]
    assert report["home"]["filesystem"] == kind


def test_filesystem_is_read_from_the_kernel(tmp_path: Path) -> None:
    assert home.filesystem(tmp_path)
    assert home.filesystem(Path("/proc")) == "proc"


def test_locale_without_utf8_is_reported(retcon: Retcon) -> None:
    assert any("LC_ALL" in line for line in retcon.json("doctor", LC_ALL="POSIX")["warnings"])
    assert not any("LC_ALL" in line for line in retcon.json("doctor", LC_ALL="de_DE.UTF-8")["warnings"])


@pytest.mark.parametrize(
    ("version", "safe"),
    [((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 50, 6), False), ((3, 50, 7), True),
     ((3, 51, 2), False), ((3, 51, 3), True), ((3, 53, 0), True), ((4, 0, 0), True)],
)  # fmt: skip
def test_sqlite_versions_with_safe_wal(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


@pytest.mark.parametrize(
    ("line", "build"),
    [("cuda: Optional[str] = '12.8'", "CUDA 12.8"), ("hip: Optional[str] = '6.4'", "ROCm 6.4"),
     ("cuda: Optional[str] = None", "CPU")],
)  # fmt: skip
def test_torch_build_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, build: str
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(
        f"__version__ = '2.13.0'\n{line}\nxpu: Optional[str] = None\n"
    )
    monkeypatch.setattr(
        environment.importlib.util,
        "find_spec",
        lambda _: type("Spec", (), {"origin": str(tmp_path / "torch" / "__init__.py")}),
    )
    assert (environment.read_versions()["torch"] or "").endswith(f"({build} build)")
    assert environment.torch_has_gpu_code() is (build != "CPU")


def test_health_does_not_change_the_file(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = file.read_bytes()
    found = health.read_health(file)
    assert found.problems == ["this is an SQLite file of another program"] and found.rows == {"theirs": 0}
    assert file.read_bytes() == before
