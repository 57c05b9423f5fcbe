"""How the app starts, where it must not, and what it looks like in a real terminal."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from retcon.store.catalog import Catalog

from .app_pilot import opened

PICTURE = Path(__file__).parents[2] / "docs" / "app.svg"
HEAVY = ("torch", "transformers", "matplotlib", "datasets", "huggingface_hub", "numpy", "click")


def test_the_app_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, asyncio\n"
        "from retcon.tui.app import RetconApp\n"
        "from retcon.store.catalog import Catalog\n"
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


@pytest.mark.parametrize("term", ["dumb", "", "xterm-256color"])
def test_no_terminal_no_app(tmp_path: Path, term: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from retcon.tui.app import run; run()"], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, env=os.environ | {"TERM": term, "RETCON_HOME": str(tmp_path / "home")}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "retcon --help" in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_in_a_real_terminal(catalog: Catalog, tmp_path: Path) -> None:
    """Through tmux: what no test inside the process sees."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    tmux = ("tmux", "-L", f"retcon-{os.getpid()}")
    program = shlex.join([sys.executable, "-c", "from retcon.tui.app import run; run()"])
    home = shlex.quote(str(catalog.home.root))
    command = (
        f"env RETCON_HOME={home} HOME={shlex.quote(str(tmp_path))} {program}; echo left with $?; sleep 60"
    )

    def screen() -> str:
        return subprocess.run(
            (*tmux, "capture-pane", "-p"), capture_output=True, text=True, check=True
        ).stdout

    def until(words: str) -> None:
        for _ in range(150):
            if words in screen():
                return
            time.sleep(0.1)
        raise AssertionError(f"{words!r} never came:\n{screen()}")

    def press(*keys: str) -> None:
        subprocess.run((*tmux, "send-keys", *keys), check=True)

    subprocess.run((*tmux, "new-session", "-d", "-x", "80", "-y", "24", command), check=True)
    try:
        until("LlamaForCausalLM")
        assert "1 Models" in screen()
        press("2", "G", "Enter")
        until("of · layer 23: p 0.7636")
        press("h")
        until("of · layer 22:")
        press("Y")
        until("copied, also to the tmux buffer")
        shown = subprocess.run((*tmux, "show-buffer"), capture_output=True, text=True, check=True).stdout
        assert shown == "retcon trace show 1"
        press("q", "4", "j", "b")
        until("Cancel")
        press("n", "q")
        until("left with 0")
    finally:
        subprocess.run((*tmux, "kill-server"), check=False)


async def test_the_picture_in_the_readme(catalog: Catalog) -> None:
    """`RETCON_UPDATE_SCREENSHOT=1 pytest -k readme` draws it anew."""
    if os.environ.get("RETCON_UPDATE_SCREENSHOT"):
        async with opened(catalog, (100, 30)) as app:
            await app.press("2", "G")
            PICTURE.parent.mkdir(exist_ok=True)
            PICTURE.write_text(app.app.export_screenshot(title="retcon"), encoding="utf-8")
    drawn = PICTURE.read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    assert "iffel" in drawn
