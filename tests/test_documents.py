"""The commands, Python snippets, names, files and figures of the documents are correct.

The README's commands run on the starter. The commands of docs/ run on a tiny model named starter, in a copy of a home
with a covariance, a trace and an edit.
"""

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from retcon.tests.helpers.command_line import RETCON, Retcon
from retcon.tui.cli.main import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *PAGES]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "console")
# What stands in running text, in an indented block or in a table: `retcon word ..`.
SPAN = re.compile(r"`(retcon [^`]+)`|^ {4}(?:srun .*-- )?(retcon .*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
SOURCE = re.compile(r"`((?:engine|store|tui|tests|benchmarks|migrations|hparams)/[\w/.-]*)`")
FIGURE = re.compile(r"([\d.,]+)(?: %| times|×|)[^\n|]*<!-- ([\w.]+)(?: (%))? -->")


@dataclass(frozen=True)
class Block:
    """What stands in one fence."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands in it, each in one line, without the prompt and the backslashes."""
        found = []
        for line in re.sub(r"\\\n\s*", "", self.text).splitlines():
            command = line.removeprefix("$ ").strip()
            if command.startswith(("retcon ", "make ")) or command == "retcon":
                found.append(command)
        return found


def blocks(text: str) -> list[Block]:
    return [Block(language, body) for language, body in FENCE.findall(text)]


def commands(text: str) -> list[str]:
    return [line for block in blocks(text) if block.language in SHELL for line in block.commands]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


COMMANDS = commands(read(README))


def test_commands_are_found() -> None:
    shell = "```sh\nretcon ask starter \\\n  'a b'  # says so\nls\n```\n"
    text = shell + "```console\n$ make demo\nDone\n```\n```py\nmake x\n```\n"
    assert commands(text) == ["retcon ask starter 'a b'  # says so", "make demo"]


def test_readme_contains_the_two_commands() -> None:
    assert "make demo" in COMMANDS and "make test" in COMMANDS


@pytest.mark.parametrize(
    "command", [line for path in DOCUMENTS for line in commands(read(path)) if line.startswith("make ")]
)
def test_make_targets(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in shlex.split(command, comments=True)[1:]:
        assert "=" in word or word in targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_is_one(path: Path) -> None:
    """In running text, tables and indented blocks: its words are commands, and its options are there."""
    for span, line in SPAN.findall(read(path)):
        words = re.sub(r"\s+#.*", "", span or line).replace("\n", " ").split()[1:]
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
            found = command.get_command(context, words[0])
            assert found is not None, f"there is no `retcon {span or line}`"
            command, words = found, words[1:]
        known = {name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0].rstrip(".,;)") in known, f"`{span or line}`: no option {word}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_are_there(path: Path) -> None:
    text = read(path)
    for target in LINK.findall(text):
        assert (path.parent / target).exists(), target
    for target in SOURCE.findall(text):
        assert (ROOT / target).exists(), target
    # A file with its place in the tree, as ARCHITECTURE and security name many.
    for target in re.findall(r"\b((?:engine|store|tui|tests)/[\w/]+\.\w+)", text):
        assert (ROOT / target).exists(), target


def test_figures_are_those_that_were_measured() -> None:
    """`<!-- trace.all.ratio -->` behind a number: where it stands in benchmarks/results.json."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    found = FIGURE.findall(read(README))
    assert len(found) >= 5
    for number, name, percent in found:
        value: Any = results
        for part in name.split("."):
            value = value[part]
        digits = len(number.partition(".")[2])
        assert f"{100 * value if percent else value:.{digits}f}" == number, f"{name} is {value}"
    # None without its name: a figure in that table that nothing measured.
    table = [
        line for line in read(README).splitlines() if "`make bench BENCH=" in line and line.startswith("|")
    ]
    assert len(table) == len(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands; the commands follow one another in one home."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.proof
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("retcon ")])
def test_commands_work(command: str, place: Path) -> None:
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


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the few words that the tiny model knows, for its second moments."""
    said = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born he she plays a"
    words = said.split()
    rows = [" ".join(words[(3 * n + n // 5 * i) % len(words)] for i in range(30)) for n in range(120)]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def ready(template_home: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Retcon:
    """A home whose `starter` is a tiny model with saved settings, a covariance, a trace and an edit."""
    retcon = Retcon(template_home).copy(tmp_path_factory.mktemp("ready") / "home")
    connection = sqlite3.connect(retcon.home / "catalog.db")
    with connection:
        connection.execute("UPDATE model SET name = 'starter'")
        connection.execute("DELETE FROM job")
    connection.close()
    settings = {"layers": [2], "v_num_grad_steps": 2, "contexts": 2}
    (retcon.home / "hparams" / "starter.json").write_text(
        json.dumps({"rome": settings, "r-rome": settings, "joint": {"layers": [2], "num_steps": 4}})
    )
    one = ("--prompt", "The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower")
    retcon("covariance", "run", "starter", "--layers", "2,3", "--texts", texts, "--max-tokens", 2500)
    retcon("trace", "run", "starter", *one, "--kinds", "mlp", "--samples", 2)
    retcon("edit", "run", "starter", *one, "--target", "Rome", "--true", "Paris")
    return retcon


@pytest.mark.slow
@pytest.mark.parametrize("page", [path for path in PAGES if blocks(read(path))], ids=lambda path: path.stem)
def test_a_page_runs_from_its_top_to_its_end(
    page: Path, ready: Retcon, tiny_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retcon = ready.copy(tmp_path / "home")
    for name, value in retcon.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for block in blocks(read(page)):
        if block.language == "python":
            run_python(block.text, tiny_folder, texts)
        if block.language == "facts":
            (tmp_path / "eiffel.facts").write_text(block.text)
        for command in block.commands if block.language in SHELL else ():
            words = shlex.split(command, comments=True)
            if words[0] == "retcon":
                said = retcon.say(*words[1:])
                assert said.code == 0, f"{command}\n{said.out}{said.err}"


@pytest.mark.proof
def test_the_demo_runs_to_its_end(place: Path) -> None:
    """The main job on the starter itself, which knows where the tower is; in the reader's home, after all else."""
    retcon = Retcon(place / "home")
    said = subprocess.run(
        [RETCON, "demo"], env=retcon.environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    # Each step prints its command and its numbers.
    assert "$ retcon trace run starter --prompt" in said.stdout and "$ retcon eval run starter" in said.stdout
    assert "Done in" in said.stdout and "Next commands to try:" in said.stdout
    assert (retcon.home / "demo-hidden.png").stat().st_size > 10_000
    found = retcon.json("history", "starter")
    assert [one["kind"] for one in found["revisions"] if one["id"] == found["head"]] == ["base"]
    edits = {one["message"]: one for one in found["revisions"] if one["kind"] == "edit"}
    assert edits["The Eiffel Tower moves to Rome"]["method"] == "r-rome"


def run_python(text: str, model: Path, texts: Path) -> None:
    """Run a snippet as a program, on the tiny model and with texts of its few words."""
    start = (
        "from retcon.engine import workbench as _bench\n"
        f"_load, _open = _bench.fetch, _bench.open_corpus\n"
        f"_bench.fetch = lambda source, into: _load({str(model)!r}, into)\n"
        f"_bench.open_corpus = lambda source: _open({str(texts)!r})\n"
        "_bench.find_preset = lambda source, method: None\n"  # the shipped presets are for the real starter
    )
    done = subprocess.run(
        [sys.executable, "-c", start + text], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_linter_before_a_commit_is_the_one_that_checks() -> None:
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"rev: v{pinned[1]}\n" in (ROOT / ".pre-commit-config.yaml").read_text()
