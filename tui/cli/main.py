"""The command line: a noun and a verb for each action of the app. Without arguments, the app itself.

Each command's module is imported only when it is used, so that help and completion come at once.
"""

import importlib
import sys

import click

from ... import __version__
from ..command_table import COMMANDS
from ..presentation.encoding import install_ascii_fallback


class LazyGroup(click.Group):
    """A group that knows its commands' one-line help without importing them."""

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
    """Find, rewrite, prove, roll back and publish the facts of a language model.

    Without a command, opens the app. State lives in RETCON_HOME. Exit codes: 0 done, 1 failed, 2 wrong usage or input,
    130 let go of a job that goes on.
    """
    if ctx.invoked_subcommand is None:
        from ..app.app import run

        run()


def main() -> None:
    """The console script: errors of the input become one sentence and exit code 2, failures exit code 1."""
    install_ascii_fallback()
    try:
        _refuse_half_characters(sys.argv[1:])
        # Without standalone mode click returns the code of an Exit instead of leaving with it.
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) had enough
        sys.exit(0)
    except Exception as error:
        from ...store.errors import CatalogError, InputError
        from ..presentation.text import sanitize

        if not isinstance(error, CatalogError | InputError | OSError):
            raise
        click.echo(f"Error: {sanitize(str(error))}", err=True)
        sys.exit(2 if isinstance(error, InputError) else 1)


def _refuse_half_characters(words: list[str]) -> None:
    """Bytes that are no text in the terminal's encoding could be kept neither in the catalog nor in JSON."""
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise click.UsageError(
                f"{word!r} is no text in this terminal's encoding ({sys.getfilesystemencoding()})"
            )
