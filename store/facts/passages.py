"""Convert rows of passages to a text file that a user can edit, and to plain data for reports."""

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlmodel import Session, col, select

from ..catalog.tables import Job, Model, Passage
from ..errors import InputError, NotFound
from ..states import ALIVE_STATES
from .passage_format import Passage as PassageFile


def find_passage(session: Session, id: int) -> Passage:
    """The passage with this id. Raises NotFound."""
    row = session.get(Passage, id)
    if row is None:
        raise NotFound(f"There is no passage {id}: `retcon passage list` lists them.")
    return row


def list_passages(session: Session) -> list[tuple[Passage, str]]:
    """Passages with their models' names, newest first."""
    query = select(Passage, Model.name).join(Model).order_by(col(Passage.id).desc())
    return list(session.exec(query))


def to_file(row: Passage) -> PassageFile:
    """The passage as the content of its file. Raises InputError if it has no facts yet."""
    return TypeAdapter(PassageFile).validate_python(row.model_dump())


def list_remarks(row: Passage) -> dict[int, list[str]]:
    """The problems of each fact, as sentences."""
    found: dict[int, list[str]] = {}
    for problem in row.problems:
        found.setdefault(problem["fact"], []).append(f"{problem['severity']}: {problem['message']}")
    return found


def to_columns(passage: PassageFile) -> dict[str, Any]:
    """The columns of a row that a file determines."""
    # A column of JSON holds lists, not tuples.
    columns = asdict(passage)
    return columns | {name: list(columns[name]) for name in ("facts", "questions")}


def replace_facts(session: Session, id: int, passage: PassageFile) -> Passage:
    """Replace the facts after a review.

    Raises InputError if its job is running, or has begun to write the facts.
    """
    row, job = find_passage(session, id), find_job(session, id)
    if row.revisions:
        raise InputError(f"passage {id} is already written, as {row.revisions[-1]}: its facts cannot change.")
    if job is not None and job.state in ALIVE_STATES:
        raise InputError(
            f"job {job.id} is working on passage {id}: pause it first (retcon job pause {job.id})."
        )
    if any(stage["name"] == "check" for stage in row.stages):
        raise InputError(f"the facts of passage {id} are being written: run a new passage with other facts.")
    for name, value in to_columns(passage).items():
        setattr(row, name, value)
    session.add(row)
    session.flush()
    return row


def find_job(session: Session, id: int) -> Job | None:
    """The job of the passage, or None if it was removed."""
    jobs = session.exec(select(Job).where(Job.kind == "passage").order_by(col(Job.id).desc()))
    return next((job for job in jobs if job.checkpoint.get("passage") == id), None)


def to_record(row: Passage, model: str) -> dict[str, Any]:
    """All of a passage as plain data, for reports and `--json`."""
    revision = row.revisions[-1] if row.revisions else None
    record = {"passage": row.id, "model": model, "base": row.revision, "revision": revision}
    return record | row.model_dump(exclude={"id", "model_id", "revision"})
