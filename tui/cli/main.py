"""The command line: a noun and a verb for each action. Without arguments it opens the app.

The module of a command is imported when the command runs, so that help and completion are fast.
"""

import importlib
import sys

import click

from ... import __version__
from ..command_table import COMMANDS
from ..presentation.encoding import install_ascii_fallback


class LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        entry = COMMANDS[cmd_name]
        module = importlib.import_module(f".commands.{entry.module}", __package__)
        command: click.Command = getattr(module, entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="retcon")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Trace, edit, evaluate, roll back and publish facts of a language model.

    Without a command, opens the app. RETCON_HOME is the folder of the catalog. Exit codes: 0 done, 1 failed, 2 wrong
    usage or input, 130 detached from a job that is still running.
    """
    if ctx.invoked_subcommand is None:
        from ..app.app import run

        run()


def main() -> None:
    """Run the command line. Wrong input prints one sentence and exits with 2; other failures exit with 1."""
    install_ascii_fallback()
    try:
        _check_encoding(sys.argv[1:])
        # Without standalone mode, click returns the exit code instead of exiting.
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has exited
        sys.exit(0)
    except Exception as error:
        from ...store.errors import CatalogError, InputError
        from ..presentation.text import sanitize

        if not isinstance(error, CatalogError | InputError | OSError):
            raise
        click.echo(f"Error: {sanitize(str(error))}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)


def _check_encoding(words: list[str]) -> None:
    """Raise UsageError for bytes that are invalid text: JSON and the catalog cannot store them."""
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise click.UsageError(
                f"{word!r} is not valid text in this terminal's encoding ({sys.getfilesystemencoding()})"
            )
