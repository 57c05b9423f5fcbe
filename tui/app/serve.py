"""Serve the app in a browser, on the loopback interface only; remote users connect with `ssh -L`."""

import shlex
import sys

import click

from ...extras import require_extra


def serve(place: str | None, port: int, *, readonly: bool) -> None:
    """Serve the app until Ctrl-C, without a password: every user of this machine can open the port.

    Raises:
        InputError: textual-serve is not installed.
    """
    require_extra("serve", "--serve")
    from textual_serve.server import Server

    words = [sys.executable, "-m", "retcon.tui", "ui", *([place] if place else [])]
    if readonly:
        words.append("--readonly")
    click.echo(
        f"http://127.0.0.1:{port} (on this machine only; from yours: ssh -L {port}:127.0.0.1:{port} HOST)",
        err=True,
    )
    Server(shlex.join(words), host="127.0.0.1", port=port, title="retcon").serve()
