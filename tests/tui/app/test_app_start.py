"""Start of the app: imports, missing terminals, and the picture in the README."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.app_pilot import open_app

PICTURE = Path(__file__).parents[3] / "docs" / "app.svg"
HEAVY = ("torch", "transformers", "matplotlib", "datasets", "huggingface_hub", "numpy", "click")


def test_app_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, asyncio\n"
        "from retcon.tui.app.app import RetconApp\n"
        "from retcon.store.catalog.catalog import Catalog\n"
        "async def main():\n"
        "    app = RetconApp(Catalog.open())\n"
        "    async with app.run_test() as pilot:\n"
        "        for key in '2345':\n"
        "            await pilot.press(key)\n"
        "        await pilot.press('e', 'escape')\n"
        "asyncio.run(main())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"RETCON_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_job_list_loads_no_sqlmodel(catalog: Catalog) -> None:
    program = (
        "import atexit, sys\n"
        "heavy = ('sqlmodel', 'sqlalchemy', 'pydantic', 'textual')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
        "sys.argv = ['retcon', 'job', 'list', '--json']\n"
        "from retcon.tui.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"RETCON_HOME": str(catalog.home.root)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    *listed, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert [job["id"] for job in json.loads("".join(listed))["jobs"]] == [5, 4, 3, 2, 1]


def test_lists_load_no_sqlmodel(catalog: Catalog) -> None:
    """SQLModel takes half of the start and a third of the memory. Only writing loads it."""
    program = (
        "import sys, asyncio\n"
        "from retcon.tui.app.app import RetconApp\n"
        "from retcon.store.catalog.catalog import Catalog\n"
        "async def main():\n"
        "    app = RetconApp(Catalog.open())\n"
        "    async with app.run_test() as pilot:\n"
        "        for key in '12345':\n"
        "            await pilot.press(key, 'j', 'G', 'o', 'enter', 'q')\n"
        "            await pilot.pause(0.3)\n"
        "asyncio.run(main())\n"
        "print([name for name in ('sqlmodel', 'sqlalchemy', 'pydantic') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"RETCON_HOME": str(catalog.home.root)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("term", ["dumb", "", "xterm-256color"])
def test_app_needs_a_terminal(tmp_path: Path, term: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from retcon.tui.app.app import run; run()"],
        stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, env=os.environ | {"TERM": term, "RETCON_HOME": str(tmp_path / "home")}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "retcon --help" in done.stderr
    assert not (tmp_path / "home").exists()


async def test_readme_picture_matches_the_app(catalog: Catalog) -> None:
    """`RETCON_UPDATE_SCREENSHOT=1 pytest -k readme_picture` draws the picture again."""
    async with open_app(catalog, (100, 30)) as app:
        await app.press("2", "G")
        drawn = app.app.export_screenshot(title="retcon")
    if os.environ.get("RETCON_UPDATE_SCREENSHOT"):
        PICTURE.write_text(drawn, encoding="utf-8")
    assert "iffel" in drawn
    assert words_of(PICTURE.read_text(encoding="utf-8")) == words_of(drawn)


def words_of(svg: str) -> list[str]:
    """The texts in a picture."""
    return re.findall(r">([^<>]+)</text>", svg)
