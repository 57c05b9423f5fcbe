"""The table of commands contains every command and declares which ones only read."""

from collections.abc import Iterator

import click
import pytest

from retcon.tui.app.screens.shell.typing import COMMAND_WORDS
from retcon.tui.cli.main import cli
from retcon.tui.command_table import COMMANDS, Access, reads_only


def commands_of(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command under a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands_of(command, *path, name)
        else:
            yield (*path, name)


def declared() -> dict[tuple[str, ...], Access]:
    found: dict[tuple[str, ...], Access] = {}
    for name, entry in COMMANDS.items():
        if isinstance(entry.verbs, Access):
            found[(name,)] = entry.verbs
        else:
            found |= {(name, verb): access for verb, access in entry.verbs.items()}
    return found


def test_every_command_declares_whether_it_reads() -> None:
    assert set(commands_of(cli)) == set(declared())


def test_help_of_the_table_is_one_sentence() -> None:
    for name, entry in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert entry.help.endswith(".") and len(entry.help) < 80


@pytest.mark.parametrize(("words", "access"), declared().items(), ids=str)
def test_commands_that_write_are_refused_in_readonly(words: tuple[str, ...], access: Access) -> None:
    assert reads_only([*words, "1"]) is access.reads_only
    assert reads_only([*words, "--help"])
    for option in access.writing_options:
        assert not reads_only([*words, "1", option])


def test_commands_that_write_are_the_expected_ones() -> None:
    reading = {
        "covariance list", "covariance show", "diff", "doctor", "eval compare", "eval list", "eval metrics",
        "eval show", "facts list", "facts show", "history", "hub list", "job list", "job log", "job show", "job watch",
        "model list", "model show", "passage list", "passage show", "sweep list", "sweep show", "trace list",
        "trace locate", "trace show",
    }  # fmt: skip
    assert {" ".join(words) for words, access in declared().items() if access.reads_only} == reading


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        ("history starter", True), ("trace locate 3", True), ("trace locate 3 --save", False),
        ("trace locate 3 --save=1", False), ("catalog check", False), ("edit run --help", True),
        ("edit run starter", False), ("edit run starter --prompt --help", False), ("--version", True), ("help", True),
        ("trace", False), ("trace --help", True), ("nonsense list", False), ("trace shows 3", False),
    ],
)  # fmt: skip
def test_reads_only(words: str, reads: bool) -> None:
    assert reads_only(words.split()) is reads


def test_the_app_offers_every_command_but_ui() -> None:
    assert {*COMMAND_WORDS, "ui"} == set(COMMANDS)
