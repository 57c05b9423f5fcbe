"""The app in a browser, for a machine that one reaches only through `ssh -L`: on loopback, and nowhere else."""

import shlex
import sys

import click


def serve(place: str | None, port: int, *, readonly: bool) -> None:
    """Serve the app until Ctrl-C. Whoever can open the port on this machine can use it: it asks for no password.

    Raises:
        click.UsageError: textual-serve is not installed.
    """
    try:
        from textual_serve.server import Server
    except ImportError as error:
        raise click.UsageError(
            "--serve needs textual-serve: pip install -e '.[serve]' in retcon's checkout"
        ) from error
    words = [sys.executable, "-m", "retcon.tui", "ui", *([place] if place else [])]
    if readonly:
        words.append("--readonly")
    click.echo(
        f"http://127.0.0.1:{port} (on this machine only; from yours: ssh -L {port}:127.0.0.1:{port} HOST)",
        err=True,
    )
    Server(shlex.join(words), host="127.0.0.1", port=port, title="retcon").serve()
