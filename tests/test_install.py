"""The package as users install it: sdist, wheel, a fresh environment, pipx, and the editable checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("build")
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "benchmarks"
    )
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel, which `build` makes from the sdist."""
    (wheel,) = built.glob("retcon_lm-*.whl")
    assert list(built.glob("retcon_lm-*.tar.gz"))
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. It has the dependencies of this one, but not the editable checkout."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    where = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # A path entry: Python does not read the .pth files there, so the editable checkout stays invisible.
    (Path(where.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def run(environment: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of an environment without this process's environment variables."""
    return subprocess.run(
        [environment / "bin" / words[0], *words[1:]],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "RETCON_HOME": str(cwd / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_wheel_contains_code_and_data_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} <= {
        "retcon",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    for name in (
        "migrations/versions/0001_catalog.py",
        "migrations/script.py.mako",
        "engine/covariance/texts/first.jsonl",
    ):
        assert f"retcon/{name}" in names
    assert any(name.startswith("retcon/hparams/") and name.endswith(".json") for name in names)
    assert not [name for name in names if "test" in name or "benchmark" in name]


def test_wheel_works_in_fresh_environment(installed: Path, tmp_path: Path) -> None:
    where = run(installed, "python", "-c", "import retcon; print(retcon.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed)), where.stderr
    version = run(installed, "retcon", "--version", cwd=tmp_path)
    assert version.stdout == f"retcon, version {wheel_version(installed)}\n", version.stderr
    # A fresh home: the migrations run.
    listed = run(installed, "retcon", "model", "list", "--json", cwd=tmp_path)
    assert json.loads(listed.stdout) == {"models": []}, listed.stderr
    assert (tmp_path / "home" / "catalog.db").stat().st_size > 0
    assert run(installed, "retcon", "--help", cwd=tmp_path).returncode == 0


def wheel_version(installed: Path) -> str:
    (metadata,) = installed.glob("lib/*/site-packages/retcon_lm-*.dist-info")
    return metadata.name.removeprefix("retcon_lm-").removesuffix(".dist-info")


def test_wheel_finds_its_data(installed: Path, tmp_path: Path) -> None:
    program = (
        "from retcon.engine.covariance.corpus import open_corpus;"
        "from retcon.engine.edits.hparams.files import find_preset;"
        "print(len(list(open_corpus('shipped').documents(1))), find_preset('starter', 'rome').layers)"
    )
    found = run(installed, "python", "-c", program, cwd=tmp_path)
    texts, layers = found.stdout.split(maxsplit=1)
    assert int(texts) > 100, found.stderr
    assert layers.startswith("(")


def test_wheel_adds_no_top_level_folder(installed: Path, tmp_path: Path) -> None:
    for name in ("engine", "store", "tui", "hparams", "migrations", "tests"):
        done = run(installed, "python", "-c", f"import {name}", cwd=tmp_path)
        assert "ModuleNotFoundError" in done.stderr, name


def test_editable_checkout_is_imported(tmp_path: Path) -> None:
    environment = Path(sys.prefix)
    where = run(environment, "python", "-c", "import retcon; print(retcon.__file__)", cwd=tmp_path)
    assert Path(where.stdout.strip()) == ROOT / "__init__.py", where.stderr
    assert run(environment, "retcon", "model", "list", cwd=tmp_path).returncode == 0
    assert run(environment, "retcon", "--version", cwd=tmp_path).stdout.startswith("retcon, version ")
    assert "ModuleNotFoundError" in run(environment, "python", "-c", "import engine", cwd=tmp_path).stderr


def test_pipx_install_gives_working_command(wheel: Path, tmp_path: Path) -> None:
    """All dependencies come from the package index, at the versions of constraints.txt."""
    environment = os.environ | {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    constraints = f"--pip-args=-c {ROOT / 'constraints.txt'}"
    command = [sys.executable, "-m", "pipx", "install", constraints, "--python", sys.executable, wheel]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    version = run(tmp_path, "retcon", "--version", cwd=tmp_path)
    assert version.stdout.startswith("retcon, version "), version.stderr
    listed = run(tmp_path, "retcon", "model", "list", "--json", cwd=tmp_path)
    assert json.loads(listed.stdout) == {"models": []}, listed.stderr
