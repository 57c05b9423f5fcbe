"""`retcon hub`: log in to the hub, and list publications."""

import os
import sys

import click

from ....engine.jobs.control import QUIET_ENVIRONMENT
from ....store.history import publications
from ..options import json_option, new_group, open_catalog
from ..output import narrate, print_list
from ..records import to_record

hub = new_group("hub")


@hub.command()
@click.option(
    "--paste", is_flag=True, help="Save a Hub token. Paste it at the prompt (hidden), or pipe it to stdin."
)
def login(paste: bool) -> None:
    """Log in with the browser or a token. Only huggingface_hub stores the token."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from huggingface_hub import interpreter_login
    from huggingface_hub import login as store_token

    from ....engine.jobs.runs.hub import translate_hub_errors

    with translate_hub_errors("the hub"):
        if paste or not sys.stdin.isatty():
            token = _read_token()
            store_token(token=token, skip_if_logged_in=False)
        else:
            interpreter_login(skip_if_logged_in=False)
    narrate("Logged in.")


def _read_token() -> str:
    typed = sys.stdin.isatty()
    token = click.prompt("Token", hide_input=True, err=True) if typed else sys.stdin.readline()
    if not token.strip():
        raise click.UsageError(
            "standard input contains no token: type it in a terminal, or pipe it to this command"
        )
    return str(token).strip()


@hub.command()
def logout() -> None:
    """Remove the token that huggingface_hub stores."""
    from huggingface_hub import logout as remove_token

    remove_token()
    narrate("Logged out.")


@hub.command("list")
@click.option("--repo", help="Only publications to this repo.")
@json_option
def list_(repo: str | None, as_json: bool) -> None:
    """List the publications of this catalog, newest first."""
    with open_catalog().read() as session:
        rows = publications.list_publications(session, repo)
    print_list(
        "publications",
        [to_record(one) for one in rows],
        "id revision as repo commit tag account created unpublished",
        "No publications yet. Publish one: retcon publish MODEL REPO",
        as_json=as_json,
        cut="repo",
        commit=lambda one: one["commit"][:10],
        **{"as": lambda one: one["kind"]},
    )
