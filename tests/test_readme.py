"""What the README tells people to type works: `retcon` commands in their order, `make` targets by name."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import RETCON

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDS_HUB = "# needs the hub"


def commands(text: str) -> list[str]:
    """The commands of the README's shell blocks, each in one line, without the prompt and the backslashes."""
    found = []
    for block in FENCE.findall(text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = line.removeprefix("$ ").strip()
            if command.startswith(("retcon ", "make ")) or command == "retcon":
                found.append(command)
    return found


README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = commands(README)


def test_commands_are_found() -> None:
    shell = "```sh\nretcon ask starter \\\n  'a b'  # says so\nls\n```\n"
    text = shell + "```console\n$ make demo\nDone\n```\n```py\nmake x\n```\n"
    assert commands(text) == ["retcon ask starter 'a b'  # says so", "make demo"]


@pytest.mark.skipif(not README.strip(), reason="the README is not written yet")
def test_the_readme_tells_the_two_commands() -> None:
    assert "make demo" in COMMANDS and "make test" in COMMANDS


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_targets(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in shlex.split(command, comments=True)[1:]:
        assert "=" in word or word in targets


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands; the commands follow one another in one home."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("retcon ")])
def test_commands_work(command: str, place: Path) -> None:
    if NEEDS_HUB in command:
        pytest.skip("needs the hub")
    words = shlex.split(command, comments=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RETCON_"))}
    done = subprocess.run(
        [RETCON, *words[1:]],
        cwd=place,
        env=kept | {"RETCON_HOME": str(place / "home"), "RETCON_LOCKS": str(place)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
