"""Import fact sets from files and from the Hub."""

from pathlib import Path

from sqlmodel import Session, col, select

from ..catalog.tables import Fact, FactSet
from ..errors import InputError, NotFound
from .fields import clean_target, make_template
from .files import read_records
from .formats import facts_of as facts_of_record
from .formats import format_of
from .hub import PREFIX, read_hub
from .passage_format import SUFFIX, Passage, read_passage
from .references import add_references

__all__ = [
    "REQUEST_FIELDS",
    "add_references",
    "clean_target",
    "facts_from_passage",
    "find_fact_set",
    "import_facts",
    "list_facts",
    "make_template",
    "read_fact_file",
    "read_facts",
    "save_facts",
]

# What a revision keeps of a fact that it wrote. Reference texts are long: who measures with them names the set.
REQUEST_FIELDS = (
    "subject", "prompt", "target_new", "target_true", "train_paraphrases", "eval_paraphrases", "neighbors", "negations",
    "portability", "generation_prompts",
)  # fmt: skip


def read_facts(path: Path) -> list[Fact]:
    """The facts of a file, not saved, with their positions. Raises InputError for the first that is wrong."""
    return read_fact_file(path)[1]


def read_fact_file(path: Path | str) -> tuple[str, list[Fact]]:
    """The name of a format ('known facts', 'CounterFact', 'MQuAKE', 'zsRE', 'plain', 'passage') and the facts, with
    positions.

    A string that begins with `hub:` names a data set of the Hub (see fact_hub). Raises InputError.
    """
    if Path(path).suffix == SUFFIX:
        return "passage", facts_from_passage(read_passage(Path(path)))
    hub = isinstance(path, str) and path.startswith(PREFIX)
    records = read_hub(str(path)) if hub else read_records(Path(path))
    format = format_of(records)
    facts = [fact for record in records for fact in facts_of_record(record, format)]
    for position, fact in enumerate(facts):
        fact.position = position
    return format, facts


def facts_from_passage(passage: Passage) -> list[Fact]:
    """A passage's facts to write, not saved, with their positions; its held-out wordings are paraphrases."""
    return [
        Fact(
            fact_set_id=0,
            position=position,
            subject=fact.subject,
            prompt=fact.prompt,
            target_new=fact.object,
            train_paraphrases=list(fact.train_paraphrases),
            eval_paraphrases=[wording.replace("{}", fact.subject) for wording in fact.eval_paraphrases],
        )
        for position, fact in enumerate(passage.facts)
    ]


def import_facts(session: Session, path: Path, name: str, *, add: bool = False) -> FactSet:
    """Save a file's facts under a new name, or with `add` after those of a set that is there.

    Raises InputError; then nothing was added.
    """
    format, facts = read_fact_file(path)
    return save_facts(session, facts, name, str(path), format, add=add)


def save_facts(
    session: Session, facts: list[Fact], name: str, source: str, format: str, *, add: bool = False
) -> FactSet:
    """Save facts that were read before. Raises InputError; then nothing was added."""
    if not name.strip() or name != name.strip():
        raise InputError(f"{name!r} cannot name a fact set: give a name without space around it.")
    known = session.exec(select(FactSet).where(FactSet.name == name)).first()
    if known is not None and not add:
        raise InputError(f"There is a fact set {name!r} already: give another name, or add to it.")
    fact_set = known or FactSet(name=name, source=source, format=format)
    session.add(fact_set)
    session.flush()
    assert fact_set.id is not None
    after = len(list_facts(session, fact_set))
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


def list_facts(session: Session, fact_set: FactSet) -> list[Fact]:
    """The facts of a set in their order."""
    query = select(Fact).where(Fact.fact_set_id == fact_set.id)
    return list(session.exec(query.order_by(col(Fact.position))))
