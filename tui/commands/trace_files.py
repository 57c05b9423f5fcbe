"""`retcon trace export` and `import`: the field's own files of a trace."""

from pathlib import Path

import click
from sqlmodel import Session, select

from ...store import history
from ...store.effects import average_effects
from ...store.tables import AverageEffect, Fact, Trace, TraceResult
from ...store.trace_files import read_npz, write_npz
from ..options import KINDS, ROW_ID, json_option, open_catalog
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
    catalog = open_catalog()
    with catalog.write() as session:
        found = history.find_model(session, model)
        results = read_npz(folder, found.anatomy["layers"])
        made = Trace(
            model_id=found.id or 0,
            revision=history.find_revision(session, found, "base").id,
            kinds=[kind for kind in KINDS if any(kind in result.scores for result in results)],
            noise="imported",
            samples=10,
            window=next(
                (r.scores[k]["window"] for r in results for k in ("mlp", "attn") if k in r.scores), 10
            ),
            seed=1,
            protocol={"imported": str(folder)},
        )
        session.add(made)
        session.flush()
        for result in results:
            result.trace_id = made.id or 0
        session.add_all(results)
        traced = [result for result in results if result.skipped is None]
        session.add_all(AverageEffect(trace_id=made.id or 0, **e.as_dict()) for e in average_effects(traced))
    if as_json:
        print_json({"trace": made.id, "facts": len(results), "skipped": len(results) - len(traced)})
    else:
        narrate(f"Trace {made.id}: {len(traced)} facts, and {len(results) - len(traced)} that were left out.")
