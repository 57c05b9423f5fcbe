"""Mark jobs whose process has died."""

from ...store.catalog.catalog import Catalog
from ...store.states import ALIVE_STATES
from .locks import is_locked, job_lock_path


def reap(catalog: Catalog) -> list[int]:
    """Mark jobs whose process has died as interrupted, or as paused or cancelled if that was requested.

    Returns their ids.
    """
    # `+id` keeps SQLite on the index of states; `ORDER BY id` would make it scan all jobs.
    query = (
        f"SELECT id, owner FROM job WHERE state IN ({', '.join(map(repr, ALIVE_STATES))}) ORDER BY +id DESC"
    )
    with catalog.read_connection() as connection:
        candidates: list[tuple[int, str | None]] = connection.execute(query).fetchall()
    dead = [one for one in candidates if not is_locked(job_lock_path(catalog.home, one[0]))]
    return [id for id, owner in dead if _mark_interrupted(catalog, id, owner)]


def _mark_interrupted(catalog: Catalog, id: int, owner: str | None) -> bool:
    from ...store import jobs as rows
    from .notice import run_on_finish

    with catalog.write() as session:
        is_marked = rows.mark_interrupted(session, id, owner)
        job = rows.get(session, id)
    if is_marked:
        run_on_finish(catalog.home, job)
    return is_marked
