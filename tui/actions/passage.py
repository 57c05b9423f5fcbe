"""Check the options of a passage and build its job."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from .edit import absolute, layer_settings
from .targets import resolve_target

DEFAULT_BASELINES = "prompt,retrieval,lora"


@dataclass(frozen=True)
class PassageOptions:
    """What a person chooses for a passage: the file, how to write its facts, and what to compare with."""

    target: str
    file: Path
    method: str = "joint"
    layers: Sequence[int] | None = None
    hparams_file: Path | None = None
    edits: int = 1
    against: str = DEFAULT_BASELINES
    known: str | None = None
    title: str = ""
    llm: str = ""
    llm_url: str | None = None
    llm_model: str | None = None
    yes: bool = False
    judge: bool = False
    texts: str = "shipped"
    seed: int = 1


def build_passage_spec(catalog: Catalog, options: PassageOptions) -> PassageSpec:
    """Read the file, check the options and build the job.

    Raises:
        InputError: the file cannot be read, an option is wrong, or prose is given without a model to extract facts.
        NotFound: the model, revision or fact set does not exist.
    """
    target, method = resolve_target(catalog, options.target), options.method
    check_method(method)
    text, facts = _read(options.file)
    against = [part.strip() for part in options.against.split(",") if part.strip()]
    check_baselines(against)
    _check_extras(options, against)
    if options.judge and not options.llm:
        raise InputError("--judge needs --llm")
    if text and not options.llm:
        raise InputError(
            f"{options.file} is prose: choose a model to extract facts with --llm, or write its facts by hand into "
            f"{options.file.stem}{SUFFIX}"
        )
    with catalog.read() as session:
        known = options.known
        others = fact_sets.list_facts(session, fact_sets.find_fact_set(session, known)) if known else []
    spec = PassageSpec(
        model=target.model.name, title=options.title, text=text, facts=facts, revision=target.revision.id,
        method=method, hparams=layer_settings(options.layers), hparams_file=absolute(options.hparams_file),
        edits=options.edits, baselines=against, prompts=[fill_prompt(fact.prompt, fact.subject) for fact in others],
        llm=options.llm, llm_url=options.llm_url, llm_model=options.llm_model, review=not options.yes,
        judge=options.judge, texts=options.texts, seed=options.seed,
    )  # fmt: skip
    edit = spec.build_edit([], target.revision.id)
    check_layers(target.model, resolve_hparams(edit, target.model, catalog.home).layers)
    for other in set(against) & set(METHODS):
        resolve_hparams(baseline_edit(spec, other, target.revision.id), target.model, catalog.home)
    return spec


def _check_extras(options: PassageOptions, against: Sequence[str]) -> None:
    """Raise InputError if extraction, a judge or retrieval needs packages that are not installed."""
    if options.llm:
        require_extra("extract", "--llm")
    for name in ("retrieval", "reranked"):
        if name in against:
            require_extra("extract", f"--against {name}")


def _read(file: Path) -> tuple[str, str]:
    """(prose, "") or ("", the text of a facts file), both checked."""
    if file.suffix == SUFFIX:
        return "", format_passage(read_passage(file))
    return read_prose(file), ""
