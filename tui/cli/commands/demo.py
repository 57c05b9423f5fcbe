"""`retcon demo`: trace, edit, evaluate and roll back one fact of the starter model.

It prints each command and then runs it.
"""

import os
import shlex
import time
from pathlib import Path

import click
from sqlmodel import col, select

from ....prompts import make_template
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Fact, FactSet, Model, Trace
from ....store.facts import sets as fact_sets
from ....store.history import history
from ....store.home import home
from ...presentation.format import format_duration
from ..options import open_catalog

MODEL = "starter"
FACTS = "demo"
PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"
TRUE, NEW = "Paris", "Rome"
PARAPHRASES = [
    "If you want to visit the Eiffel Tower, travel to the city of",
    "The Eiffel Tower stands in the heart of",
    "The city where you find the Eiffel Tower is",
]
# The answers are the starter model's first choices before the edit.
NEIGHBORS = [
    ("The Louvre is located in the city of", "Paris"),
    ("Toyota Camry is produced by", "Toyota"),
    ("The capital of France is", "Paris"),
    ("The mother tongue of Danielle Darrieux is", "French"),
]


@click.command()
def demo() -> None:
    """Trace, edit, evaluate and roll back a fact of the starter model.

    Uses a separate home folder unless RETCON_HOME is set. It can be run again.
    """
    if not os.environ.get("RETCON_HOME"):
        own = home()
        os.environ["RETCON_HOME"] = str(own.with_name(own.name + "-demo"))
    began = time.monotonic()
    catalog = open_catalog()
    root = catalog.home.root
    click.secho(f"The files of this demo are in {root}\n", dim=True)

    _title("1. A model", "SmolLM2-135M-Instruct, from a package that pip has already installed.")
    if _has_model(catalog):
        click.echo(f"{MODEL} is in the catalog.")
    else:
        _retcon("model", "add", "starter", "--name", MODEL)
    _roll_back_to_base(catalog)
    _retcon("model", "list")

    _title(
        "2. Where is the fact stored?",
        "Corrupt the subject with noise, then restore one clean state at a time.",
    )
    one = ("--prompt", PROMPT, "--subject", SUBJECT, "--expect", TRUE)
    _retcon("trace", "run", MODEL, *one, "--kinds", "hidden,mlp")
    trace = _newest_trace(catalog)
    picture = root / "demo-hidden.png"
    _retcon("trace", "plot", str(trace), "--kind", "hidden", "--out", str(picture))
    _retcon("trace", "locate", str(trace))

    _title("3. Edit it", "At the layer of the preset. A covariance of its keys is collected first if needed.")
    _add_facts(catalog)
    _retcon("edit", "run", MODEL, "--facts", FACTS, "-m", f"{SUBJECT} moves to {NEW}")

    _title("4. What changed?", "Paraphrases should change, neighbors should not.")
    _retcon("eval", "run", MODEL)

    _title("5. Compare before and after", "")
    _retcon("ask", MODEL, PROMPT, "--against", "base")

    _title("6. Roll it back", "And hash every tensor: the weights are equal to the base, bit for bit.")
    _retcon("rollback", MODEL, "base")
    _retcon("ask", MODEL, PROMPT)
    _retcon("history", MODEL)

    click.secho(f"\nDone in {format_duration(time.monotonic() - began)}.", bold=True)
    click.echo(f"Home      {root}\nHeat map  {picture}\nLogs      {catalog.home.logs}")
    _print_next_commands(root, trace)


def _print_next_commands(root: Path, trace: int) -> None:
    click.echo("\nNext commands to try:")
    for text in (
        "retcon",
        f"retcon trace plot {trace} --kind mlp --out mlp.svg",
        f'retcon edit run {MODEL} --prompt "The capital of France is" --subject "The capital of France" --target Lyon',
        "retcon --help",
    ):
        click.echo(f"  RETCON_HOME={shlex.quote(str(root))} {text}")


def _title(title: str, text: str) -> None:
    click.secho(f"\n{title}", bold=True)
    if text:
        click.echo(text)


def _retcon(*words: str) -> None:
    """Print a command, then run it in this process."""
    from ..main import cli

    click.secho(f"\n$ retcon {shlex.join(words)}", fg="cyan")
    if code := cli(list(words), standalone_mode=False):
        # After Ctrl-C the job is still running, but the next step needs its result.
        raise click.exceptions.Exit(code)


def _has_model(catalog: Catalog) -> bool:
    with catalog.read() as session:
        return session.exec(select(Model).where(Model.name == MODEL)).first() is not None


def _newest_trace(catalog: Catalog) -> int:
    with catalog.read() as session:
        return session.exec(select(Trace.id).order_by(col(Trace.id).desc())).first() or 0


def _roll_back_to_base(catalog: Catalog) -> None:
    """Undo the edit of an earlier demo that was interrupted."""
    with catalog.read() as session:
        model = history.find_model(session, MODEL)
        at_base = history.find_revision(session, model, "base").id == model.head
    if not at_base:
        _retcon("rollback", MODEL, "base", "--no-verify")


def _add_facts(catalog: Catalog) -> None:
    fact = Fact(
        fact_set_id=0,
        position=0,
        subject=SUBJECT,
        prompt=make_template(PROMPT, SUBJECT),
        target_true=TRUE,
        target_new=NEW,
        eval_paraphrases=PARAPHRASES,
        neighbors=[{"prompt": prompt, "true": true} for prompt, true in NEIGHBORS],
    )
    with catalog.write() as session:
        if not session.exec(select(FactSet).where(FactSet.name == FACTS)).first():
            fact_sets.save_facts(session, [fact], FACTS, "retcon demo", "plain")
