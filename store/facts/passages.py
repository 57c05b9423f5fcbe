"""The rows of passages: as a file that a person edits, and as the record that a report is made from."""

from dataclasses import asdict
from typing import Any

from sqlmodel import Session, col, select

from ..catalog.tables import Job, Model, Passage
from ..errors import InputError, NotFound
from ..states import ALIVE_STATES
from .passage_format import Passage as PassageFile
from .passage_format import PassageFact, PassageQuestion


def find(session: Session, id: int) -> Passage:
    """NotFound if there is none."""
    row = session.get(Passage, id)
    if row is None:
        raise NotFound(f"There is no passage {id}: `retcon passage list` shows those there are.")
    return row


def list_passages(session: Session) -> list[tuple[Passage, str]]:
    """Passages with their models' names, newest first."""
    query = select(Passage, Model.name).join(Model).order_by(col(Passage.id).desc())
    return list(session.exec(query))


def file_of(row: Passage) -> PassageFile:
    """The passage as its file has it. InputError while it has no facts."""
    facts = tuple(
        PassageFact(
            one["subject"],
            one["prompt"],
            one["object"],
            tuple(one["train_paraphrases"]),
            tuple(one["eval_paraphrases"]),
        )
        for one in row.facts
    )
    questions = tuple(PassageQuestion(one["question"], tuple(one["answers"])) for one in row.questions)
    return PassageFile(row.title, row.text, facts, questions)


def remarks_of(row: Passage) -> dict[int, list[str]]:
    """The problems of each fact in words."""
    found: dict[int, list[str]] = {}
    for problem in row.problems:
        found.setdefault(problem["fact"], []).append(f"{problem['severity']}: {problem['message']}")
    return found


def fields_of(passage: PassageFile) -> dict[str, Any]:
    """The columns of a row that a file fills."""
    return {
        "title": passage.title,
        "text": passage.text,
        "facts": [asdict(fact) for fact in passage.facts],
        "questions": [asdict(question) for question in passage.questions],
    }


def replace_facts(session: Session, id: int, passage: PassageFile) -> Passage:
    """Take over what a person has made of the facts.

    Raises:
        InputError: its job works, or is beyond the look at the facts.
    """
    row, job = find(session, id), job_of(session, id)
    if row.revisions:
        raise InputError(f"passage {id} is written already; its facts are those of {row.revisions[-1]}.")
    if job is not None and job.state in ALIVE_STATES:
        raise InputError(f"job {job.id} works at passage {id}: pause it first (retcon job pause {job.id}).")
    if any(stage["name"] == "check" for stage in row.stages):
        raise InputError(f"the facts of passage {id} are being written: run it anew with other facts.")
    for name, value in fields_of(passage).items():
        setattr(row, name, value)
    session.add(row)
    session.flush()
    return row


def job_of(session: Session, id: int) -> Job | None:
    """The job that makes or made the passage, unless it was removed."""
    jobs = session.exec(select(Job).where(Job.kind == "passage").order_by(col(Job.id).desc()))
    return next((job for job in jobs if job.checkpoint.get("passage") == id), None)


def record(row: Passage, model: str) -> dict[str, Any]:
    """All of a passage as plain data: what a report and `--json` show."""
    fields = (
        "title",
        "text",
        "method",
        "facts",
        "questions",
        "problems",
        "stages",
        "proof",
        "answers",
        "created",
    )
    return {
        "passage": row.id,
        "model": model,
        "base": row.revision,
        "revision": row.revisions[-1] if row.revisions else None,
        "revisions": row.revisions,
    } | {name: getattr(row, name) for name in fields}
