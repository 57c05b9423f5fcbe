"""`retcon facts`: named sets of facts, imported from files and from the hub."""

from pathlib import Path

import click
from sqlmodel import func, select

from ....store.catalog.tables import Fact, FactSet
from ....store.facts import sets as fact_sets
from ....store.facts.references import add_references
from ..options import json_option, new_group, open_catalog
from ..output import narrate, print_json, print_list, print_table
from ..records import to_record

facts = new_group("facts")


@facts.command("import")
@click.argument("source")
@click.option("--name", required=True, help="Name of the set.")
@click.option("--add", is_flag=True, help="Add the facts to an existing set.")
@click.option(
    "--references", type=click.Path(path_type=Path),
    help="CounterFact's attribute_snippets.json: reference texts for the metrics RS and essence.",
)  # fmt: skip
@json_option
def import_(source: str, name: str, add: bool, references: Path | None, as_json: bool) -> None:
    """Import facts from SOURCE: a file, or a data set of the hub as hub:NAME[:CONFIG][@SPLIT].

    Formats: known facts, CounterFact, MultiCounterFact, MQuAKE, zsRE, or CSV/JSON/JSONL with subject, prompt,
    target_new, target_true.
    """
    catalog = open_catalog()
    format, new_facts = fact_sets.read_fact_file(source)
    if references is not None:
        count = add_references(new_facts, references)
        narrate(f"{count} of {len(new_facts)} facts have reference texts.")
    with catalog.write() as session:
        fact_set = fact_sets.save_facts(session, new_facts, name, source, format, add=add)
        count = len(fact_sets.list_facts(session, fact_set))
    if as_json:
        print_json({"facts": name, "format": fact_set.format, "count": count})
    else:
        narrate(f"Imported {count} facts as {name} (format: {fact_set.format}).")


@facts.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the fact sets of the catalog."""
    with open_catalog().read() as session:
        query = select(FactSet, func.count(Fact.id)).join(Fact).group_by(FactSet.id).order_by(FactSet.name)  # type: ignore[arg-type]
        rows = session.exec(query).all()
    print_list(
        "sets",
        [
            {"name": s.name, "count": n, "format": s.format, "source": s.source, "created": s.created}
            for s, n in rows
        ],
        "name facts format source created",
        "No facts yet. Import some: retcon facts import FILE --name NAME",
        as_json=as_json,
        cut="source",
        facts=lambda one: one["count"],
    )


@facts.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the facts of a set."""
    with open_catalog().read() as session:
        rows = fact_sets.list_facts(session, fact_sets.find_fact_set(session, name))
    if as_json:
        print_json({"name": name, "facts": [to_record(fact) for fact in rows]})
        return
    print_table(
        ("subject", "prompt", "true target", "new target"),
        ((fact.subject, fact.prompt, fact.target_true, fact.target_new) for fact in rows),
        "The set is empty.",
        cut="prompt",
    )
