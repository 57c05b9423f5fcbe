"""Import fact sets from files."""

from pathlib import Path

from sqlmodel import Session, col, select

from .errors import InputError, NotFound
from .fact_fields import clean_target, template_of
from .fact_files import read_records
from .fact_formats import fact_of, format_of
from .tables import Fact, FactSet

__all__ = [
    "clean_target",
    "facts_of",
    "find_fact_set",
    "import_facts",
    "read_fact_file",
    "read_facts",
    "template_of",
]


def read_facts(path: Path) -> list[Fact]:
    """The facts of a file, not saved, with their positions. Raises InputError for the first that is wrong."""
    return read_fact_file(path)[1]


def read_fact_file(path: Path) -> tuple[str, list[Fact]]:
    """The name of the file's format ('known facts', 'CounterFact', 'zsRE', 'plain') and its facts."""
    records = read_records(path)
    format = format_of(records)
    return format, [fact_of(record, format, position) for position, record in enumerate(records)]


def import_facts(session: Session, path: Path, name: str, *, add: bool = False) -> FactSet:
    """Save a file's facts under a new name, or with `add` after those of a set that is there.

    Raises InputError; then nothing was added.
    """
    if not name.strip() or name != name.strip():
        raise InputError(f"{name!r} cannot name a fact set: give a name without space around it.")
    known = session.exec(select(FactSet).where(FactSet.name == name)).first()
    if known is not None and not add:
        raise InputError(f"There is a fact set {name!r} already: give another name, or add to it.")
    format, facts = read_fact_file(path)
    fact_set = known or FactSet(name=name, source=str(path), format=format)
    session.add(fact_set)
    session.flush()
    assert fact_set.id is not None
    after = len(facts_of(session, fact_set))
    for fact in facts:
        fact.fact_set_id, fact.position = fact_set.id, after + fact.position
    session.add_all(facts)
    session.flush()
    return fact_set


def find_fact_set(session: Session, name: str) -> FactSet:
    """The fact set of that name. NotFound names those there are."""
    fact_set = session.exec(select(FactSet).where(FactSet.name == name)).one_or_none()
    if fact_set is None:
        known = session.exec(select(FactSet.name).order_by(col(FactSet.name))).all()
        hint = (
            f"there are {', '.join(known)}." if known else "none yet; import one with `retcon facts import`."
        )
        raise NotFound(f"There is no fact set {name!r}: {hint}")
    return fact_set


def facts_of(session: Session, fact_set: FactSet) -> list[Fact]:
    """The facts of a set in their order."""
    query = select(Fact).where(Fact.fact_set_id == fact_set.id)
    return list(session.exec(query.order_by(col(Fact.position))))
