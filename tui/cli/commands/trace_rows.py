"""A trace of the catalog with its results, as the commands read it."""

from sqlmodel import Session, col, select

from ....store.catalog.tables import AverageEffect, Model, Trace, TraceResult
from ....store.errors import NotFound


def load_trace(session: Session, id: int) -> tuple[Trace, Model, list[TraceResult]]:
    found = session.get(Trace, id)
    if found is None:
        raise NotFound(f"there is no trace {id}; `retcon trace list` shows those there are")
    results = session.exec(
        select(TraceResult).where(TraceResult.trace_id == id).order_by(col(TraceResult.position))
    )
    return found, session.get_one(Model, found.model_id), list(results)


def effects_of(session: Session, id: int) -> list[AverageEffect]:
    return list(
        session.exec(
            select(AverageEffect).where(AverageEffect.trace_id == id).order_by(col(AverageEffect.id))
        )
    )
