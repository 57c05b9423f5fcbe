"""`retcon hub`: log in, and what this catalog has published."""

import os
import sys

import click

from ....engine.jobs.control import QUIET_ENVIRONMENT
from ....store.history import publications
from ..options import json_option, open_catalog
from ..output import narrate, print_json, print_table
from ..records import publication_record


@click.group()
def hub() -> None:
    """Log in to the hub, and list what was published."""


@hub.command()
@click.option("--paste", is_flag=True, help="Paste a token (nothing is echoed), or pipe one in.")
def login(paste: bool) -> None:
    """Log in with the browser or a token. It is kept where huggingface_hub keeps it, and nowhere else."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from huggingface_hub import interpreter_login
    from huggingface_hub import login as keep

    from ....engine.jobs.runs.hub import plain_hub_errors

    with plain_hub_errors("the hub"):
        if paste or not sys.stdin.isatty():
            token = _pasted()
            keep(token=token, skip_if_logged_in=False)
        else:
            interpreter_login(skip_if_logged_in=False)
    narrate("Logged in.")


def _pasted() -> str:
    typed = sys.stdin.isatty()
    token = click.prompt("Token", hide_input=True, err=True) if typed else sys.stdin.readline()
    if not token.strip():
        raise click.UsageError(
            "there is no token on the standard input; type one in a terminal, or pipe it in"
        )
    return str(token).strip()


@hub.command()
def logout() -> None:
    """Remove the token that huggingface_hub keeps."""
    from huggingface_hub import logout as forget

    forget()
    narrate("Logged out.")


@hub.command("list")
@click.option("--repo", help="Only of this repo.")
@json_option
def list_(repo: str | None, as_json: bool) -> None:
    """What this catalog has published, newest first."""
    with open_catalog().read() as session:
        found = publications.list_publications(session, repo)
    if as_json:
        print_json({"publications": [publication_record(one) for one in found]})
        return
    print_table(
        ("id", "revision", "as", "repo", "commit", "tag", "account", "created", "unpublished"),
        (
            (p.id, p.revision, p.kind, p.repo, p.commit[:10], p.tag, p.account, p.created, p.unpublished)
            for p in found
        ),
        "Nothing was published yet.",
        cut="repo",
    )
