"""Publications on the Hub."""

from sqlmodel import Session, col, select

from ..catalog.tables import Publication, now
from . import history


def find_newest(session: Session, repo: str) -> Publication | None:
    """The last publication to a repo that was not removed from the Hub."""
    query = select(Publication).where(Publication.repo == repo, col(Publication.unpublished).is_(None))
    return session.exec(query.order_by(col(Publication.id).desc())).first()


def list_publications(session: Session, repo: str | None = None) -> list[Publication]:
    """All publications, or those to one repo, newest first."""
    query = select(Publication).order_by(col(Publication.id).desc())
    if repo is not None:
        query = query.where(Publication.repo == repo)
    return list(session.exec(query))


def is_descendant(session: Session, later: str, earlier: str) -> bool:
    """Whether `earlier` is an ancestor of `later`."""
    return earlier != later and earlier in {step.id for step in history.load_path(session, later)}


def mark_unpublished(session: Session, repo: str, tag: str | None = None) -> int:
    """Record that a repo, or the commit of one of its tags, was removed from the Hub. Returns the number of rows."""
    found = [
        one for one in list_publications(session, repo) if one.unpublished is None and tag in (None, one.tag)
    ]
    for one in found:
        one.unpublished = now()
        session.add(one)
    return len(found)
