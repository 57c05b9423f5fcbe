"""The pictures that go with a publication: heat maps of the facts that were edited, and curves of average effects."""

import tempfile
from pathlib import Path

from sqlmodel import Session, col, select

from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import AverageEffect, Model, Revision, Trace, TraceResult
from ...store.history import history
from .figures import effects_title, save_effects, save_result

_MOST = 6
# What says most about where a fact is kept.
_KINDS = ("mlp", "hidden", "attn")


def pictures_of(catalog: Catalog, model: Model, revision: Revision) -> list[tuple[str, str, str]]:
    """(name, artifact, caption) of each: traces of the requests of the revision's edits, and the newest averages.

    They are stored as artifacts, which the job that is given them keeps alive until it is done.
    """
    with catalog.read() as session:
        edits = history.live_edits(history.path(session, revision.id))
        prompts = {r["prompt"].replace("{}", r["subject"]) for edit in edits for r in edit.requests}
        results = _results(session, model, prompts)
        effects = _effects(session, model)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, result in enumerate(results, start=1):
            kind = next(kind for kind in _KINDS if kind in result.scores)
            path = Path(folder) / f"trace-{number}-{kind}.png"
            save_result(path, result, kind, model.name)
            caption = f"Causal trace ({kind}) of: {result.prompt}"
            found.append((path.name, catalog.artifacts.put_file(path).sha256, caption))
        if effects:
            path = Path(folder) / "average-effects.png"
            title = effects_title(model.name, effects)
            save_effects(path, effects, title=title)
            found.append((path.name, catalog.artifacts.put_file(path).sha256, title))
    return found


def _results(session: Session, model: Model, prompts: set[str]) -> list[TraceResult]:
    """The newest finished trace of each prompt, of so many prompts at most."""
    query = select(TraceResult).join(Trace, col(Trace.id) == TraceResult.trace_id)
    query = query.where(
        Trace.model_id == model.id,
        col(TraceResult.prompt).in_(prompts),
        col(TraceResult.skip_reason).is_(None),
    )
    newest: dict[str, TraceResult] = {}
    for result in session.exec(query.order_by(col(TraceResult.id).desc())):
        if result.is_complete and any(kind in result.scores for kind in _KINDS):
            newest.setdefault(result.prompt, result)
    return list(newest.values())[:_MOST]


def _effects(session: Session, model: Model) -> list[AverageEffect]:
    """Of the model's newest trace over more than one fact."""
    query = select(AverageEffect.trace_id).join(Trace, col(Trace.id) == AverageEffect.trace_id)
    query = query.where(Trace.model_id == model.id, AverageEffect.count > 1)
    newest = session.exec(query.order_by(col(AverageEffect.trace_id).desc())).first()
    return list(session.exec(select(AverageEffect).where(AverageEffect.trace_id == newest)))
