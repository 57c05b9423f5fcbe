"""Figures of a publication: heat maps of the edited facts, and curves of average effects."""

import tempfile
from pathlib import Path

from sqlmodel import Session, col, select

from ...prompts import fill_prompt
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import AverageEffect, Model, Revision, Trace, TraceResult
from ...store.history import history
from .figures import effects_title, save_effects, save_result

_MAX_TRACES = 6
# Most informative kind first.
_KINDS = ("mlp", "hidden", "attn")


def draw_publication_figures(
    catalog: Catalog, model: Model, revision: Revision
) -> list[tuple[str, str, str]]:
    """(file name, artifact, caption) per figure: traces of the edited requests, and the newest average effects.

    The figures are stored as artifacts. A job that refers to them keeps them until it ends.
    """
    with catalog.read() as session:
        edits = history.live_edits(history.load_path(session, revision.id))
        prompts = {fill_prompt(r["prompt"], r["subject"]) for edit in edits for r in edit.requests}
        results = _results(session, model, prompts)
        effects = _effects(session, model)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for number, result in enumerate(results, start=1):
            kind = next(kind for kind in _KINDS if kind in result.scores)
            path = Path(folder) / f"trace-{number}-{kind}.png"
            save_result(path, result, kind, model.name)
            caption = f"Causal trace ({kind}) of: {result.prompt}"
            figures.append((path.name, catalog.artifacts.put_file(path).sha256, caption))
        if effects:
            path = Path(folder) / "average-effects.png"
            title = effects_title(model.name, effects)
            save_effects(path, effects, title=title)
            figures.append((path.name, catalog.artifacts.put_file(path).sha256, title))
    return figures


def _results(session: Session, model: Model, prompts: set[str]) -> list[TraceResult]:
    """The newest finished result of each prompt, at most `_MAX_TRACES`."""
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
    return list(newest.values())[:_MAX_TRACES]


def _effects(session: Session, model: Model) -> list[AverageEffect]:
    """Average effects of the model's newest trace of several facts."""
    query = select(AverageEffect.trace_id).join(Trace, col(Trace.id) == AverageEffect.trace_id)
    query = query.where(Trace.model_id == model.id, AverageEffect.count > 1)
    newest = session.exec(query.order_by(col(AverageEffect.trace_id).desc())).first()
    return list(session.exec(select(AverageEffect).where(AverageEffect.trace_id == newest)))
