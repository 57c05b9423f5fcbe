"""`retcon trace export` and `import`: traces as .npz files of the published code (rome)."""

from pathlib import Path

import click
from sqlmodel import Session, select

from ....store.catalog.tables import Fact, Trace, TraceResult
from ....store.exchange.trace import import_trace, write_npz
from ...actions.trace import load_trace
from ..options import ROW_ID, json_option, open_catalog
from ..output import narrate, print_json


@click.command()
@click.argument("id", type=ROW_ID)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def export(id: int, folder: Path) -> None:
    """Write a trace in the file format of rome: knowledge_ID.npz, knowledge_ID_mlp.npz, knowledge_ID_attn.npz."""
    with open_catalog().read() as session:
        _, _, results = load_trace(session, id)
        names = [_known_id(session, id, result) for result in results]
    narrate(f"Wrote {write_npz(folder, results, names)} files to {folder}.")


def _known_id(session: Session, id: int, result: TraceResult) -> int:
    """The fact's known_id in the file that it was imported from; without one, its position in the trace."""
    fact_set_id = session.get_one(Trace, id).fact_set_id
    query = select(Fact).where(Fact.fact_set_id == fact_set_id, Fact.position == result.position)
    fact = session.exec(query).first()
    known = fact.origin.get("known_id") if fact else None
    return known if isinstance(known, int) else result.position


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model that was traced.")
@json_option
def import_(folder: Path, model: str, as_json: bool) -> None:
    """Import the .npz traces that rome's causal_trace wrote to DIR."""
    trace, results = import_trace(open_catalog(), folder, model)
    traced = sum(result.skip_reason is None for result in results)
    if as_json:
        print_json({"trace": trace.id, "facts": len(results), "skipped": len(results) - traced})
    else:
        narrate(f"Trace {trace.id}: {traced} facts imported, {len(results) - traced} skipped.")
