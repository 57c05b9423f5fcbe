"""`retcon trace export` and `import`: the field's own files of a trace."""

from pathlib import Path

import click
from sqlmodel import Session, select

from ....store.catalog.tables import Fact, Trace, TraceResult
from ....store.exchange.trace import import_trace, write_npz
from ..options import ROW_ID, json_option, open_catalog
from ..output import narrate, print_json
from .trace_rows import load_trace


@click.command()
@click.argument("id", type=ROW_ID)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def export(id: int, folder: Path) -> None:
    """Write a trace as the field's files: knowledge_ID.npz, knowledge_ID_mlp.npz, knowledge_ID_attn.npz."""
    with open_catalog().read() as session:
        _, _, results = load_trace(session, id)
        names = [_known_id(session, id, result) for result in results]
    narrate(f"Wrote {write_npz(folder, results, names)} files to {folder}.")


def _known_id(session: Session, id: int, result: TraceResult) -> int:
    """The id that the fact had in the file it came from; its place in the trace if it had none."""
    fact_set_id = session.get_one(Trace, id).fact_set_id
    query = select(Fact).where(Fact.fact_set_id == fact_set_id, Fact.position == result.position)
    fact = session.exec(query).first()
    known = fact.origin.get("known_id") if fact else None
    return known if isinstance(known, int) else result.position


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model that they are traces of.")
@json_option
def import_(folder: Path, model: str, as_json: bool) -> None:
    """Take in a folder of the field's .npz traces; averages, pictures and locate work on them."""
    made, results = import_trace(open_catalog(), folder, model)
    traced = sum(result.skip_reason is None for result in results)
    if as_json:
        print_json({"trace": made.id, "facts": len(results), "skipped": len(results) - traced})
    else:
        narrate(f"Trace {made.id}: {traced} facts, and {len(results) - traced} that were left out.")
