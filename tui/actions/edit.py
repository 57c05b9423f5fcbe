"""Check the options of an edit or an evaluation and build its job."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlmodel import Session

from ...engine.jobs.settings import check_layers, check_method, resolve_hparams
from ...engine.jobs.specs import EditSpec, EvaluationSpec
from ...prompts import clean_target, make_template
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Fact
from ...store.errors import InputError
from ...store.facts import sets as fact_sets
from ...store.history import history
from .targets import resolve_spec

# The fields of a typed request.
REQUEST_OPTIONS = ("prompt", "subject", "target_new", "target_true", "train_paraphrases", "eval_paraphrases")


def build_edit_spec(
    catalog: Catalog, draft: EditSpec, request: Mapping[str, Any], fact_set: str | None = None
) -> EditSpec:
    """Check a draft (see `resolve_spec`) and add the typed request, or the facts of a set that have a new target.

    Raises:
        InputError: an option is wrong, or options exclude each other.
        NotFound: the model, revision or fact set does not exist.
    """
    target, spec = resolve_spec(catalog, draft)
    if bool(fact_set) == (request.get("prompt") is not None):
        raise InputError("give either a fact set (--facts), or a request (--prompt, --subject and --target)")
    check_method(spec.method)
    if fact_set:
        with catalog.read() as session:
            requests = requests_of_set(session, fact_set)
    else:
        requests = [_build_request(**request)]
    spec = replace(spec, requests=requests)
    check_layers(target.model, resolve_hparams(spec, target.model, catalog.home).layers)
    return spec


def fact_request(fact: Fact) -> dict[str, Any]:
    """A fact of a set as the request of a job."""
    return {name: getattr(fact, name) for name in fact_sets.REQUEST_FIELDS}


def requests_of_set(session: Session, name: str) -> list[dict[str, Any]]:
    """The requests of a set's facts that have a new target. Raises InputError if there are none, NotFound."""
    facts = fact_sets.list_facts(session, fact_sets.find_fact_set(session, name))
    requests = [fact_request(fact) for fact in facts if fact.target_new]
    if not requests:
        raise InputError(f"no fact of {name} has a new target (target_new), so there is nothing to write")
    return requests


def _build_request(
    prompt: str,
    subject: str | None,
    target_new: str | None,
    target_true: str | None,
    train_paraphrases: Sequence[str] = (),
    eval_paraphrases: Sequence[str] = (),
) -> dict[str, Any]:
    """The request that was typed, with the checks of an imported one."""
    subject = subject or ""

    def template(text: str) -> str:
        return text if "{}" in text and subject not in text else make_template(text, subject)

    prompt = make_template(prompt, subject)
    if target_new is None:
        raise InputError(
            "give the new target (--target): the text that the model should predict after the prompt"
        )
    return {
        "subject": subject,
        "prompt": prompt,
        "target_new": clean_target(target_new, "--target"),
        "target_true": clean_target(target_true, "--true") if target_true is not None else None,
        "train_paraphrases": [template(text) for text in train_paraphrases],
        "eval_paraphrases": list(eval_paraphrases),
        "neighbors": [],
    }


def build_evaluation_spec(catalog: Catalog, draft: EvaluationSpec) -> EvaluationSpec:
    """Check a draft (see `resolve_spec`) and replace `requests_of` by the id of that revision.

    Raises:
        InputError: options exclude each other.
        NotFound: the model, a revision or the fact set does not exist.
    """
    if draft.facts is not None and draft.requests_of is not None:
        raise InputError("give --facts or --requests-of, not both")
    target, spec = resolve_spec(catalog, draft)
    with catalog.read() as session:
        if spec.facts is not None:
            fact_sets.find_fact_set(session, spec.facts)
        if spec.requests_of is None:
            return spec
        return replace(spec, requests_of=history.find_revision(session, target.model, spec.requests_of).id)
