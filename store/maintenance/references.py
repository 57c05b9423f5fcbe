"""Which rows reference an artifact, and which rows depend on those."""

import json

from sqlmodel import Session, col, select

from ..catalog.artifacts import SHA256
from ..catalog.tables import Covariance, Evaluation, Job, Model, Passage, Revision, Sweep, Trace
from ..history import history


def find_references(session: Session) -> dict[str, list[str]]:
    """The referenced digests, each with its rows in words."""
    found: dict[str, list[str]] = {}
    names = _names(session)
    for revision, model, delta in session.exec(
        select(Revision.id, Revision.model_id, Revision.delta).where(col(Revision.delta).is_not(None))
    ):
        found.setdefault(str(delta), []).append(f"revision {revision} of {names.get(model, 'no model')}")
    for covariance, model, artifact in session.exec(
        select(Covariance.id, Covariance.model_id, Covariance.artifact)
    ):
        found.setdefault(artifact, []).append(f"covariance {covariance} of {names.get(model, 'no model')}")
    # The spec and the checkpoint of a job may name artifacts anywhere; each kind of job has its own form.
    for job, spec, checkpoint in session.exec(
        select(Job.id, Job.spec, Job.checkpoint).where(Job.state != "done")
    ):
        for digest in digests_in(json.dumps([spec, checkpoint])):
            found.setdefault(digest, []).append(f"job {job}")
    return found


def digests_in(text: str) -> list[str]:
    """The digests in the JSON of a job's spec or checkpoint."""
    return SHA256.findall(text)


def find_dependents(session: Session, digest: str) -> list[str]:
    """The rows that depend on the rows of an artifact, in words.

    For a delta these are later revisions and their results. An edit does not depend on its covariance: it has a delta.
    """
    found: list[str] = []
    names = _names(session)
    for edit in session.exec(select(Revision).where(Revision.delta == digest)).all():
        for revision in session.exec(select(Revision).where(Revision.model_id == edit.model_id)).all():
            if edit.id not in {one.id for one in history.live_edits(history.load_path(session, revision.id))}:
                continue
            if revision.id != edit.id:
                found.append(
                    f"revision {revision.id} of {names.get(revision.model_id, 'no model')}, which builds on {edit.id}"
                )
            found += _results(session, revision.id)
    for covariance in session.exec(select(Covariance.id).where(Covariance.artifact == digest)).all():
        for revision in session.exec(select(Revision)).all():
            if covariance in revision.covariances:
                found.append(f"revision {revision.id}, which was computed with it and has its own delta")
    return list(dict.fromkeys(found))


def _results(session: Session, revision: str) -> list[str]:
    tables: tuple[tuple[str, type[Trace | Evaluation | Sweep | Passage]], ...] = (
        ("trace", Trace), ("evaluation", Evaluation), ("sweep", Sweep), ("passage", Passage),
    )  # fmt: skip
    return [
        f"{name} {id} on revision {revision}"
        for name, table in tables
        for id in session.exec(select(table.id).where(table.revision == revision)).all()
    ]


def _names(session: Session) -> dict[int | None, str]:
    return dict(session.exec(select(Model.id, Model.name)).all())
