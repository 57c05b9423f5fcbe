"""Import fact sets from files and from the Hub."""

from pathlib import Path

from sqlmodel import Session, col, select

from ...prompts import fill_prompt
from ..catalog.tables import Fact, FactSet
from ..errors import InputError, NotFound
from .files import read_records
from .formats import detect_format, parse_record
from .hub import PREFIX, read_hub
from .passage_format import Passage
from .passage_reader import SUFFIX, read_passage

# The fields of a fact that a revision stores. Reference texts are long and stay in the fact set.
REQUEST_FIELDS = (
    "subject", "prompt", "target_new", "target_true", "train_paraphrases", "eval_paraphrases", "neighbors", "negations",
    "portability", "generation_prompts",
)  # fmt: skip


def read_fact_file(path: Path | str) -> tuple[str, list[Fact]]:
    """The format of a file ('known facts', 'CounterFact', 'MQuAKE', 'zsRE', 'plain', 'passage') and its facts.

    A string that begins with `hub:` names a data set of the Hub, see `facts.hub`. Raises InputError.
    """
    if Path(path).suffix == SUFFIX:
        return "passage", facts_from_passage(read_passage(Path(path)))
    hub = isinstance(path, str) and path.startswith(PREFIX)
    records = read_hub(str(path)) if hub else read_records(Path(path))
    format = detect_format(records)
    facts = [fact for record in records for fact in parse_record(record, format)]
    for position, fact in enumerate(facts):
        fact.position = position
    return format, facts


def facts_from_passage(passage: Passage) -> list[Fact]:
    """The facts of a passage, unsaved, with their positions."""
    return [
        Fact(
            position=position,
            subject=fact.subject,
            prompt=fact.prompt,
            target_new=fact.object,
            train_paraphrases=list(fact.train_paraphrases),
            eval_paraphrases=[fill_prompt(template, fact.subject) for template in fact.eval_paraphrases],
        )
        for position, fact in enumerate(passage.facts)
    ]


def save_facts(
    session: Session, facts: list[Fact], name: str, source: str, format: str, *, add: bool = False
) -> FactSet:
    """Save facts of `read_fact_file` under a new name. With `add`, append them to an existing set.

    Raises InputError; then nothing is saved.
    """
    if not name.strip() or name != name.strip():
        raise InputError(
            f"{name!r} is not a valid name of a fact set: give a name without surrounding space."
        )
    known = session.exec(select(FactSet).where(FactSet.name == name)).first()
    if known is not None and not add:
        raise InputError(f"The fact set {name!r} exists already: give another name, or add to it.")
    fact_set = known or FactSet(name=name, source=source, format=format)
    session.add(fact_set)
    session.flush()
    assert fact_set.id is not None
    existing = len(list_facts(session, fact_set))
    for fact in facts:
        fact.fact_set_id, fact.position = fact_set.id, existing + fact.position
    session.add_all(facts)
    session.flush()
    return fact_set


def find_fact_set(session: Session, name: str) -> FactSet:
    """The fact set of that name. NotFound lists the existing ones."""
    fact_set = session.exec(select(FactSet).where(FactSet.name == name)).one_or_none()
    if fact_set is None:
        known = session.exec(select(FactSet.name).order_by(col(FactSet.name))).all()
        hint = f"existing sets are {', '.join(known)}." if known else "import one with `retcon facts import`."
        raise NotFound(f"There is no fact set {name!r}: {hint}")
    return fact_set


def list_facts(session: Session, fact_set: FactSet) -> list[Fact]:
    """The facts of a set in order."""
    query = select(Fact).where(Fact.fact_set_id == fact_set.id)
    return list(session.exec(query.order_by(col(Fact.position))))
