"""Check the options of an evaluation and build its job."""

from dataclasses import dataclass

from ...engine.jobs.specs import EvaluationSpec
from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ...store.facts import sets as fact_sets
from ...store.history import history
from .targets import resolve_target


@dataclass(frozen=True)
class EvaluationOptions:
    """What a person chooses for an evaluation; by default the requests of the revision's own edits."""

    target: str
    fact_set: str | None = None
    requests_of: str | None = None
    suite: str = "standard"
    max_new_tokens: int = 20
    texts: str = "held-out"
    seed: int = 1


def build_evaluation_spec(catalog: Catalog, options: EvaluationOptions) -> EvaluationSpec:
    """Check the options and build the job.

    Raises:
        InputError: options exclude each other.
        NotFound: the model, a revision or the fact set does not exist.
    """
    if options.fact_set is not None and options.requests_of is not None:
        raise InputError("give --facts or --requests-of, not both")
    target = resolve_target(catalog, options.target)
    requests_of = options.requests_of
    with catalog.read() as session:
        if options.fact_set is not None:
            fact_sets.find_fact_set(session, options.fact_set)
        if requests_of is not None:
            requests_of = history.find_revision(session, target.model, requests_of).id
    return EvaluationSpec(
        model=target.model.name, revision=target.revision.id, facts=options.fact_set, requests_of=requests_of,
        max_new_tokens=options.max_new_tokens, seed=options.seed, suite=options.suite, texts=options.texts,
    )  # fmt: skip
