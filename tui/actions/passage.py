"""Check the options of a passage and build its job."""

from dataclasses import replace
from pathlib import Path

from ...engine.edits import METHODS
from ...engine.jobs.settings import (
    baseline_edit,
    check_baselines,
    check_layers,
    check_method,
    resolve_hparams,
)
from ...engine.jobs.specs import PassageSpec
from ...extras import require_extra
from ...prompts import fill_prompt
from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ...store.facts import sets as fact_sets
from ...store.facts.passage_format import format_passage
from ...store.facts.passage_reader import SUFFIX, read_passage, read_prose
from .targets import resolve_spec


def build_passage_spec(
    catalog: Catalog, draft: PassageSpec, file: Path, known: str | None = None
) -> PassageSpec:
    """Check a draft (see `resolve_spec`), and add the texts of the file and the prompts of the fact set `known`.

    Raises:
        InputError: the file cannot be read, an option is wrong, or prose is given without a model to extract facts.
        NotFound: the model, revision or fact set does not exist.
    """
    target, spec = resolve_spec(catalog, draft)
    check_method(spec.method)
    text, facts = _read(file)
    check_baselines(spec.baselines)
    _check_extras(spec)
    if spec.judge and not spec.llm:
        raise InputError("--judge needs --llm")
    if text and not spec.llm:
        raise InputError(
            f"{file} is prose: choose a model to extract facts with --llm, or write its facts by hand into "
            f"{file.stem}{SUFFIX}"
        )
    with catalog.read() as session:
        others = fact_sets.list_facts(session, fact_sets.find_fact_set(session, known)) if known else []
    prompts = [fill_prompt(fact.prompt, fact.subject) for fact in others]
    spec = replace(spec, text=text, facts=facts, prompts=prompts)
    edit = spec.build_edit([], spec.revision)
    check_layers(target.model, resolve_hparams(edit, target.model, catalog.home).layers)
    for method in set(spec.baselines) & set(METHODS):
        resolve_hparams(baseline_edit(spec, method, spec.revision), target.model, catalog.home)
    return spec


def _check_extras(spec: PassageSpec) -> None:
    """Raise InputError if extraction, a judge or retrieval needs packages that are not installed."""
    if spec.llm:
        require_extra("extract", "--llm")
    for name in ("retrieval", "reranked"):
        if name in spec.baselines:
            require_extra("extract", f"--against {name}")


def _read(file: Path) -> tuple[str, str]:
    """(prose, "") or ("", the text of a facts file), both checked."""
    if file.suffix == SUFFIX:
        return "", format_passage(read_passage(file))
    return read_prose(file), ""
