"""Check the options of an edit and build its job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session

from ...engine.jobs.settings import check_layers, check_method, resolve_hparams
from ...engine.jobs.specs import EditSpec
from ...prompts import clean_target, make_template
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Fact
from ...store.errors import InputError
from ...store.facts import sets as fact_sets
from .targets import resolve_target


@dataclass(frozen=True)
class EditOptions:
    """What a person chooses for an edit: one request, or the facts of a set that have a new target."""

    target: str
    prompt: str | None = None
    subject: str | None = None
    target_new: str | None = None
    target_true: str | None = None
    train_paraphrases: Sequence[str] = ()
    eval_paraphrases: Sequence[str] = ()
    fact_set: str | None = None
    method: str = "r-rome"
    layers: Sequence[int] | None = None
    hparams_file: Path | None = None
    covariance: int | None = None
    texts: str = "shipped"
    batch: int | None = None
    seed: int = 1
    message: str = ""


def build_edit_spec(catalog: Catalog, options: EditOptions) -> EditSpec:
    """Check the options and build the job.

    Raises:
        InputError: an option is wrong, or options exclude each other.
        NotFound: the model, revision or fact set does not exist.
    """
    target = resolve_target(catalog, options.target)
    if bool(options.fact_set) == (options.prompt is not None):
        raise InputError("give either a fact set (--facts), or a request (--prompt, --subject and --target)")
    check_method(options.method)
    if options.fact_set:
        with catalog.read() as session:
            requests = requests_of_set(session, options.fact_set)
    else:
        requests = [_build_request(options)]
    spec = EditSpec(
        model=target.model.name, requests=requests, revision=target.revision.id, method=options.method,
        hparams=layer_settings(options.layers), hparams_file=absolute(options.hparams_file),
        covariance=options.covariance, texts=options.texts, seed=options.seed, message=options.message,
        batch=options.batch,
    )  # fmt: skip
    check_layers(target.model, resolve_hparams(spec, target.model, catalog.home).layers)
    return spec


def layer_settings(layers: Sequence[int] | None) -> dict[str, Any]:
    """The settings of a method that --layers changes."""
    return {} if layers is None else {"layers": list(layers)}


def absolute(path: Path | None) -> str | None:
    """Make a path absolute, because a job runs in another folder."""
    return str(path.absolute()) if path else None


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


def _build_request(options: EditOptions) -> dict[str, Any]:
    """The request that was typed, with the checks of an imported one."""
    subject = options.subject or ""

    def template(text: str) -> str:
        return text if "{}" in text and subject not in text else make_template(text, subject)

    prompt = make_template(options.prompt or "", subject)
    if options.target_new is None:
        raise InputError(
            "give the new target (--target): the text that the model should predict after the prompt"
        )
    true = options.target_true
    return {
        "subject": subject,
        "prompt": prompt,
        "target_new": clean_target(options.target_new, "--target"),
        "target_true": clean_target(true, "--true") if true is not None else None,
        "train_paraphrases": [template(text) for text in options.train_paraphrases],
        "eval_paraphrases": list(options.eval_paraphrases),
        "neighbors": [],
    }
